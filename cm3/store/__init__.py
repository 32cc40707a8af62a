"""The document store: what training and retrieval read. Nothing here knows a model.

store.py      documents by number and by id: tokens, words, pictures, vectors
shard.py      the files that hold them; record.py: a document as it is kept
manifest.py   what a store says it holds; place.py: where its files are, near or far
vectors.py    vectors as arrays
write.py      how a store comes to be, grows and shrinks
old.py        stores and banks of before, for reading
"""
