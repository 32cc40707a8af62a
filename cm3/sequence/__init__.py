"""The grammar of a CM3 sequence, in one place: which tokens stand where, and why.

    </s> text <break> image <break> a <mask:0> circle <break> image </s> <mask:0> red <eoss>
         --- a document ---         --------- the example ---------      ---- its tail -----

    borders   </s>, <break>      (another grammar, "chameleon", is in turns.py)
    segments  the texts and images between borders; the codes of an image have cells 1 to n

    segments.py       borders, the segments between them, cells of image codes; a document of its parts
    turns.py          documents and prompts of Chameleon's family, and where turns end
    truncate.py       a document that is too long as a shorter one that is whole in itself
    mask.py           the CM3 objective: spans move to the end, and back (paper section 2.2)
    holes.py          holes of a document to be filled, and the space before one
    answers.py        what is written for a hole: continued, or a tail; with loss weights
    before.py         retrieved documents before an example or a prompt (paper section 2.1 and B.1)
    unconditional.py  parts of a prompt as masks: the streams that guidance needs (paper sections 3.1 and 4.1)

All of it is ids, cells and numpy: no tokenizer, no model. Nothing is imported here.
"""
