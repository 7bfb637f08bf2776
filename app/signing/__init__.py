"""Signatures: one canonical form, one envelope, keys by URI.

Terms: a *payload* is JCS bytes (RFC 8785), made once; the *PAE* is what is signed, payload type and
payload with their lengths; an *envelope* (DSSE) holds the payload and its signatures; a *keyid* is the
SHA-256 of a public key's SPKI DER. Every statement carries two signatures over one PAE: Ed25519, and
ECDSA P-256 in DER, because each alone locks out tools that people verify with. A key *rotates*: another
takes its place, vouched for by the pair that signed before, and what it signed is judged as of then.
"""
