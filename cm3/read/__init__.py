"""One reader a format, each giving documents.

find.py              a source as it is written -> its reader      base.py           what a reader is
published.py         Flickr30k, paragraphs, narratives, edits     questions.py      VQA v2, OK-VQA, VizWiz, ScienceQA
coco.py              COCO, and what is seen in its pictures       places.py         large files, by record
picture_folder.py    pictures and their words, by stems           imagefolder.py    pictures, and captions in one list
webdataset.py        tars                                         jsonl.py          lines, interleaved
huggingface.py       the hub                                      fields.py         words and pictures by owners' names
walk.py              what lies below a folder                     random_access.py  documents of any reader by number
"""
