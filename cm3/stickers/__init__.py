"""The drawn world of the model `stickers`: stickers on plain grounds, with exact truth for every task."""
