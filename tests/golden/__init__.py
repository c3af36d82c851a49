"""Recordings of real servers and clients, and what a replay of each has to print.

`NAME.rec` is a recording as `masdeepflow record` writes it, with the connections of one capture only;
`NAME.jsonl` is what `masdeepflow replay --log json NAME.rec` prints. `capture.py` makes both.
"""
