"""Generator -> scores. One file a benchmark; each reaches a model only through the interface of `cm3.generate`.

scenes.py    the procedural world: what was drawn and said is measured against the exact truth
emblems.py   named things that no training saw, drawn from their one document in a memory bank
captions.py  photographs learnt by heart: how many get a caption of their own back
"""
