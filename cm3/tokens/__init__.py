"""Documents to token ids and back.

    text.py   str <-> ids             byte-level BPE
    image.py  PIL <-> grid of codes   any picture to the model's size and colours, then the VQGAN
    holes.py  what a hole in a document is, and how text closes around it
    codec.py  Document <-> Tokens     where the modalities meet, and where holes become `<mask:i>`
    away.py   what a guided prompt is pulled away from: parts of it as `<mask:i>`

Nothing is imported here, so that the text tokenizer can be used without loading torch.
"""
