"""Document -> neighbours: the documents that a model is shown beside its prompt.

embed.py     Document -> vectors, by an Encoder
clip.py      the Encoder of other people's CLIPs
pairs.py     the Encoder of one's own: a small CLIP of torch alone (cm3/train/clip_trainer.py)
nearest.py   vectors -> the nearest rows: exact, or FAISS
memory.py    vectors -> documents: a store as a memory bank
store_bank.py    a store as a bank for tables of neighbours
select.py    query -> the documents worth showing
live.py      prompt -> the documents before it, while generating
"""
