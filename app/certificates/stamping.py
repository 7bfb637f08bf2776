"""What can be done about time stamps: ask the authority for those that are missing, and keep them.

An authority that is away holds nothing up: the certificate goes out without a stamp, and its bundle has one
as soon as there is one. Asked in no transaction.
"""

from app.certificates.repository import Certificates
from app.certificates.stamps import Authority
from app.signing import envelope
from app.signing.keys import PublicKey
from app.storage.database import Transaction

AT_ONCE = 100


def stamp(transaction: Transaction, authority: Authority, *, public_keys: list[PublicKey]) -> int:
    """Take the time stamps that are missing; return over how many certificates.

    Raises:
        NotStamped: the authority is away, or gave what does not verify.
    """
    # A stamp says that a signature existed by then: of a key that has ended by now it would say too much.
    algorithms = {key.keyid: key.algorithm for key in public_keys if key.not_after is None}
    with transaction() as session:
        waiting = [
            (each.id, envelope.signatures_of(envelope.decode(each.envelope)))
            for each in Certificates(session).unstamped(limit=AT_ONCE)
        ]
    waiting = [(id_, signed) for id_, signed in waiting if signed.keys() <= algorithms.keys()]
    for certificate_id, signed in waiting:
        signatures = {algorithms[keyid]: value for keyid, value in signed.items()}
        ed25519 = authority.stamp(signatures[envelope.ED25519])
        p256 = authority.stamp(signatures[envelope.P256])
        with transaction() as session:
            Certificates(session).stamp(certificate_id, ed25519=ed25519, p256=p256)
    return len(waiting)
