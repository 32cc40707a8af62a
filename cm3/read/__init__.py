"""One reader a format, each giving documents.

find.py              a source as it is written -> its reader      base.py           the base of readers
published.py         Flickr30k, paragraphs, narratives, edits     questions.py      VQA v2, OK-VQA, VizWiz, ScienceQA
coco.py              COCO, with its annotations                   places.py         large files, by record
picture_folder.py    pictures and their words, by stems           imagefolder.py    pictures, and captions in one list
webdataset.py        tars                                         jsonl.py          lines, interleaved
huggingface.py       the hub                                      fields.py         words and pictures by owners' names
stored.py            a store with pictures                        random_access.py  documents of any reader by number
walk.py              the files below a folder
"""
