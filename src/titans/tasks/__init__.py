"""Tasks: what a memory has to remember, as streams of tokens with labels where an answer is due.

    sample.py    a stream and its labels, read piece by piece
    batches.py   samples of random lengths as batches to train on
    score.py     how many answers of a model are right

and one file for each benchmark.
"""
