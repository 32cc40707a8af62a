"""Predictions, made anywhere -> figures. No model that draws or writes is run here; networks that measure may be.

result.py       what every scorer returns
"""
