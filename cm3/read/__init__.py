"""One reader a format, each giving documents.

find.py         a source as it is written -> its reader         base.py          what a reader is
published.py    Flickr30k, Image Paragraph, narratives, edits   questions.py     VQA v2, OK-VQA, VizWiz, ScienceQA, VisDial
coco.py         COCO, and what is seen in its pictures          places.py        its large files, of which places are kept
folder.py       pictures and their words, by stems              imagefolder.py   pictures, and captions in one list
webdataset.py   tars                                            jsonl.py         lines, interleaved
huggingface.py  the hub                                         record.py        names that owners choose: words, pictures
walk.py         what lies below a folder                        random_access.py documents of any reader by number
"""
