"""Jobs made of other jobs."""

import dataclasses

from workers.unlearning.engines.targets import COHORT_ROWS
from workers.unlearning.spec import UnlearnSpec

MANY = COHORT_ROWS + 1


def with_many_records(spec: UnlearnSpec) -> UnlearnSpec:
    """Return the job of somebody with more records than are compared, and a dev cohort of such people.

    People of the cohort are put together, again and again, until they have as many.
    """
    cohort = spec.dev_cohort
    times = -(-MANY // len(cohort[0]))
    many = tuple(
        tuple(key for keys in (cohort * times)[at : at + times] for key in keys) for at in range(len(cohort))
    )
    person, taken = spec.forget[0], MANY - len(spec.forget[0].keys)
    several = dataclasses.replace(person, keys=(*person.keys, *spec.retain[:taken]))
    return dataclasses.replace(spec, forget=(several,), retain=spec.retain[taken:], dev_cohort=many)
