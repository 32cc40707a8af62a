"""Generator -> scores. One file a benchmark; each reaches a model only through the interface of `cm3.generate`.

scenes.py       the procedural world: what was drawn and said is measured against the exact truth
scene_tasks.py  instruction tasks on scenes, likewise
emblems.py      named things that no training saw, drawn from their one document in a memory bank
by_heart.py     photographs learnt by heart: how many get a caption of their own back
real_tasks.py   instruction tasks on real datasets; real_cases.py: what is asked; picture_metrics.py
"""
