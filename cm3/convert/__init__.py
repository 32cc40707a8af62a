"""Weights of other people, in and out: files read without running them, told apart by their tensors, and turned."""
