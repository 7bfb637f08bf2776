"""The unlearning library: tensors, iterators and bytes in, tensors and bytes out.

It knows no database, no HTTP, no settings and no logger, and could be published alone.

    python -m workers.unlearning --spec FILE        one run in one process: train, unlearn or measure

Terms, as in the papers: the *forget set* is what must go, the *retain set* what must stay, the
*anchor* the exact model a run starts from, the *candidate* what it makes, a *reference* a model of
the same recipe that never saw a given subject. This docstring is all that importing the package
runs; torch is loaded by the modules that need it.
"""
