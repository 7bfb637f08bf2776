"""Datasets, their records, and whose they are.

A *dataset* is a training set at a URI; it stays there, and we keep one row per *record*: where it
lies, a keyed hash of its content, keyed hashes of its subjects. Content is read by offset when it
is needed and compared with that hash.

    registering ──> ready       all of it, in one transaction
         └────────> failed      none of it; the number of the bad line is kept, never the line

A *subject* is an identifier of a person; subjects that share a record are one *cluster*. A lottery,
drawn before anything is trained, puts each cluster in an *arm*: `train`, or `held_back`, which is
never trained on and so shows what not knowing someone looks like. *Sentinels* are nobody: planted,
always trained, erased to see whether erasing works.

What is being erased is *barred* from later trainings by a keyed hash of what it says (`suppression`);
a training job leaves it out by `screening`, one file that needs nothing of ours.
"""
