"""Reading all texts once for all who wait: a worker's part.

    claim       one short transaction: who waits, what each is known by, which datasets are unread for them
    read        no transaction: a dataset from end to end, every text for all of them
    sift        short transactions: of what was found, what a request does not know yet
    keep        one transaction a dataset, once its bytes proved to be those that were registered
    conclude    one transaction a request, and it goes on; or it is left to a later try

One pass at a time: whoever comes meanwhile waits for the next, which begins by itself. Rung twice, a worker
finds nothing to do; killed, the next goes on with the datasets that are not kept, and a try is counted.
Identifiers and texts are in memory for as long as the pass takes. What is kept of them is which types stand
where, and how often.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from app.clock import Clock
from app.erasure.scan import service
from app.erasure.scan.repository import Mention
from app.erasure.scan.seeking import Seeker
from app.erasure.scan.service import RENEW_SECONDS, Owed
from app.errors import Problem
from app.failpoints import reach
from app.records import service as records
from app.records.lines import Line
from app.storage.database import Transaction

FINDS_AT_ONCE = 1000
"""So many are held before it is asked which of them are news."""
RECORDS_BETWEEN_LOOKS = 500


def scan(transaction: Transaction, *, clock: Clock) -> int:
    """Read for all who wait, until nobody does; return for how many requests that was.

    Raises:
        Conflict, Unavailable: a dataset has changed, or cannot be read; all others were read. Whatever else
            went wrong with one dataset or one request is raised, too, once all others are done.
    """
    done = 0
    problems = _put_off_lapsed(transaction, clock)
    while True:
        with transaction() as session:
            owed = service.claim(session, now=clock())
        if not owed:
            break
        _Pass(transaction, owed, clock).run()
        done += len(owed)
    if problems:
        raise problems[0]
    return done


def _put_off_lapsed(transaction: Transaction, clock: Clock) -> Sequence[Exception]:
    """Count a try of those whose reader was killed: what can kill one can kill the next."""
    with transaction() as session:
        lapsed = service.lapsed(session, now=clock())
    problems = []
    for request_id in lapsed:
        try:
            with transaction() as session:
                service.put_off(session, request_id, at=clock(), lapsed=True)
        except Exception as problem:  # noqa: BLE001  one request keeps no other waiting
            problems.append(problem)
    return problems


class _Pass:
    """One reading of the datasets that somebody waits for."""

    def __init__(self, transaction: Transaction, owed: Sequence[Owed], clock: Clock) -> None:
        """Take who waits; nothing is read yet."""
        self._transaction, self._owed, self._clock = transaction, owed, clock
        whose = defaultdict[tuple[str, str], list[UUID]](list)
        for each in owed:
            for identifier in each.sought:
                whose[identifier].append(each.request_id)
        self._seeker = Seeker(list(whose))
        self._types = [type_ for type_, _ in whose]
        self._whose = list(whose.values())
        self._room = {each.request_id: each.proposals_most for each in owed}
        """How many more records may be proposed for each."""
        self._cut = set[UUID]()
        """Of whom there was more than that."""
        self._renewed_at = clock()

    def run(self) -> None:
        """Read dataset by dataset; what can be concluded is, whatever else cannot be read."""
        unread: set[UUID] = set()
        problems: list[Exception] = []
        for dataset_id in sorted({each for owed in self._owed for each in owed.datasets}):
            try:
                self._read(dataset_id)
            except Exception as problem:  # noqa: BLE001  whatever ails one dataset, the others are read
                unread.add(dataset_id)
                problems.append(problem)
            reach("scan.read")
        for each in self._owed:
            self._renew()
            try:
                self._conclude(each, unread)
            except Exception as problem:  # noqa: BLE001  nor does one request keep the others waiting
                problems.append(problem)
            reach("scan.concluded")
        if problems:
            raise next((each for each in problems if not isinstance(each, Problem)), problems[0])

    def _conclude(self, owed: Owed, unread: Collection[UUID]) -> None:
        cut = owed.request_id in self._cut
        with self._transaction() as session:
            if cut or owed.datasets.isdisjoint(unread):
                service.conclude(session, owed, more=cut, at=self._clock())
            else:
                service.put_off(session, owed.request_id, at=self._clock())

    def _read(self, dataset_id: UUID) -> None:
        """Read one dataset to its end, and keep what it says of those who wait for it."""
        waiting = {each.request_id for each in self._owed if dataset_id in each.datasets} - self._cut
        news: dict[UUID, dict[int, Mention]] = {request_id: {} for request_id in waiting}
        finds: dict[UUID, dict[str, Counter[str]]] = {request_id: {} for request_id in waiting}
        with self._transaction() as session:
            source = records.source(session, dataset_id)
        count = held = 0
        for count, line in enumerate(records.everything(source), start=1):
            if line.role == "person" and not waiting <= self._cut:
                held += self._seek(line, finds)
            if held >= FINDS_AT_ONCE:
                self._sift(dataset_id, finds, news)
                held = 0
            if count % RECORDS_BETWEEN_LOOKS == 0:
                self._renew()
        self._sift(dataset_id, finds, news)
        with self._transaction() as session:
            service.keep(session, dataset_id, news, whole=waiting - self._cut, records=count)
        for request_id, mine in news.items():
            self._room[request_id] -= len(mine)

    def _seek(self, line: Line, finds: Mapping[UUID, dict[str, Counter[str]]]) -> int:
        """Note whom a record names, and how often; return of how many of those who wait that is news."""
        held = 0
        counts: Counter[int] = Counter()
        for reading in _readings(line):
            counts |= Counter(self._seeker.found(reading))
        for place, times in counts.items():
            for request_id in self._whose[place]:
                if request_id in finds and request_id not in self._cut:
                    held += line.id not in finds[request_id]
                    finds[request_id].setdefault(line.id, Counter())[self._types[place]] += times
        return held

    def _sift(
        self,
        dataset_id: UUID,
        finds: Mapping[UUID, dict[str, Counter[str]]],
        news: Mapping[UUID, dict[int, Mention]],
    ) -> None:
        """Keep of the finds what a request does not know yet, as far as there is room."""
        found = {request_id: mine for request_id, mine in finds.items() if mine}
        if not found:
            return
        with self._transaction() as session:
            unknown = service.unknown(session, dataset_id, found)
        for request_id, rows in unknown.items():
            for external_id, record_id in rows.items():
                if len(news[request_id]) == self._room[request_id]:
                    self._cut.add(request_id)
                    break
                times = found[request_id][external_id]
                news[request_id][record_id] = Mention(tuple(sorted(times)), times.total())
        for mine in found.values():
            mine.clear()

    def _renew(self) -> None:
        now = self._clock()
        if now - self._renewed_at >= timedelta(seconds=RENEW_SECONDS):
            with self._transaction() as session:
                service.renew(session, self._owed, now=now)
            self._renewed_at = now


def _readings(line: Line) -> list[str]:
    """Return all that a record says, in its other wordings too; no find goes from one into the next.

    A prompt and what follows it are one text. Where a word may end between the two, or go on, both are read.
    """
    passages = [(each.prompt, each.completion) for each in (line.passage, *line.paraphrases)]
    together = "\n".join(prompt + completion for prompt, completion in passages)
    if not any(prompt[-1:].isalnum() and completion[:1].isalnum() for prompt, completion in passages):
        return [together]
    return [together, "\n".join(f"{prompt}\n{completion}" for prompt, completion in passages)]
