"""Documents to token ids and back.

    text.py   str <-> ids             byte-level BPE
    image.py  PIL <-> grid of codes   any picture to the model's size and colours, then the VQGAN
    noted.py  codes in a PNG file     those that a picture was drawn from
    codec.py  Document <-> Tokens     where the modalities meet, and where holes become `<mask:i>`

Nothing is imported here, so that the text tokenizer can be used without loading torch.
"""
