"""The paper's statements, in miniature: models are trained on the world that ships, measured, and judged by rules.

recipes/paper.py   the plan: which models, of what size, measured how
steps.py           each step of it once, whatever interrupts
drawn_world.py     the world, in one place
measures.py        what a step measures
verdicts.py        figures -> holds, does not hold, cannot be told
claims_page.py     docs/claims.md and its charts
"""
