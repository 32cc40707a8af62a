"""Document -> neighbours: what a model is shown beside its prompt.

embed.py     Document -> vectors, by an Encoder
clip.py      the Encoder of other people's CLIPs
pairs.py     the Encoder of one's own: a small CLIP of torch alone; train.py trains it
memory.py    vectors -> documents: the memory bank
select.py    query -> the documents worth showing
live.py      prompt -> what is read before it, while generating
"""
