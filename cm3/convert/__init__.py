"""Models of Chameleon's family as they are published, and bundles of ours: from one to the other and back.

ids.py    their ids and our ranges
"""
