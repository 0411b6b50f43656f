"""The tree of files, as its owner sees it: what there is, what an operation changes, and whether all of it fits together. Decides only.

An operation is planned against the state of now, and gives the changes that it makes, all of one entry of the journal. Who has them journalled applies them;
whoever reads the journal from its beginning, or from a snapshot on, has the same state.
"""
