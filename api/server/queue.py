"""The queue: how many drivers run at the same time, and which of those that wait comes next.

A row in the queue that is *admitted* has a place, and the reconciler submits it; the others wait. It keeps the place
until it has ended, or is paused and nothing is at work for it any more. Places are given in
one transaction that locks all rows in the queue, so that several processes on one database keep the limit together.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from api.server.models import SEARCH, Search
from api.states import SearchState
from cluster.capacity import Node

LIMITED = (SEARCH, "retrain", "audit")
"""Kinds that occupy the cluster for long. An export or figures take a minute and do not wait."""
CPUS_OF_A_SEARCH = 4
UNKNOWN_SIZE = 4
_S = SearchState
_ORDER = (Search.priority.desc(), Search.changed_at, Search.id)
_QUEUED = and_(Search.state == _S.QUEUED.value, Search.kind.in_(LIMITED))
_WAITING = and_(_QUEUED, ~Search.admitted)


def places(nodes: Sequence[Node]) -> int:
    """How many drivers to run at the same time on a cluster of these nodes, where no number is set.

    None are known where the cluster cannot be asked.
    """
    if not nodes:
        return UNKNOWN_SIZE
    gpus, cpus = (int(sum(of)) for of in ((node.gpus for node in nodes), (node.cpus for node in nodes)))
    return gpus or max(1, cpus // CPUS_OF_A_SEARCH)


_HAS_PLACE = and_(
    Search.kind.in_(LIMITED),
    or_(
        Search.state.in_([_S.STARTING.value, _S.RUNNING.value]),
        # About to be started, or being stopped.
        and_(Search.admitted, Search.state.in_([_S.QUEUED.value, _S.PAUSED.value, _S.CANCELLING.value])),
    ),
)


def admit(session: Session, limit: int) -> list[str]:
    """Gives the free ones of so many places to those that wait, in their order. Returns their ids."""
    if session.scalar(select(Search.id).where(_WAITING).limit(1)) is None:
        return []
    session.execute(update(Search).where(_QUEUED).values(admitted=Search.admitted))  # the lock
    free = limit - (session.scalar(select(func.count()).where(_HAS_PLACE)) or 0)
    chosen = list(session.scalars(select(Search.id).where(_WAITING).order_by(*_ORDER).limit(max(0, free))))
    if chosen:
        session.execute(update(Search).where(Search.id.in_(chosen)).values(admitted=True))
    return chosen


def waiting(session: Session) -> list[str]:
    """Ids of those that wait for a place, the next one first."""
    return list(session.scalars(select(Search.id).where(_WAITING).order_by(*_ORDER)))


def num_unfinished(session: Session, submitted_by: str) -> int:
    """Searches and jobs of one token's owner that have not ended and are not paused."""
    under_way = [s.value for s in SearchState if not s.ended and s is not _S.PAUSED]
    query = select(func.count()).where(Search.submitted_by == submitted_by, Search.state.in_(under_way))
    return session.scalar(query) or 0
