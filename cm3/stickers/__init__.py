"""The drawn world of the model that ships: stickers on plain grounds, with exact truth for every task."""
