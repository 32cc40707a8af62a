"""Measurements of the engine against a peer in one run: what `cm3 bench` and benchmarks/decode.py print.

    shapes.py    decoders of Chameleon's kind with random weights, by size
    machine.py   the processor, its clock, and how fast it streams weights
    peer.py      the same weights in transformers' Chameleon
    decode.py    requests, sides, rounds by turns, and the rows of the table
    windows.py   several codes of a picture in one pass, of a trained model
    serving.py   a server in a process of its own, and a client that costs little

benchmarks/train.py takes shapes, peer and machine from here too.
"""
