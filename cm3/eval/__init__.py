"""Generator -> scores. One file a benchmark; each reaches a model only through the interface of `cm3.generate`.

scenes.py   the procedural world: what was drawn and said is measured against the exact truth
"""
