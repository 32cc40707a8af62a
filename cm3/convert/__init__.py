"""Models of Chameleon's family as they are published, and bundles of ours: from one to the other and back.

    pickles.py           tensors of a pickle, of which nothing is run
    tensors.py           tensors of many files by name, and writers that hold one at a time
    ids.py               ids of a text tokenizer's file, and our ranges
    decoder_layouts.py   names and rows of the language model, by layout
    image_layouts.py     those of image tokenizers
    inspect.py           what a folder holds
    convert.py           the run

Nothing is imported here.
"""
