"""Our own identity as an OpenDSR processor, from the settings; None where it is off."""

from urllib.parse import urlsplit

from app.clock import Clock
from app.config import Settings
from app.intake.signing import NotAProcessor, Processor


def of(settings: Settings, *, clock: Clock) -> Processor | None:
    """Return who we are to controllers; `NotAProcessor` where the settings name what cannot be trusted.

    The domain must be the one of our own URL: controllers compare it with the address they call.
    """
    if settings.opendsr_domain is None:
        return None
    if settings.opendsr_key is None or settings.opendsr_chain is None:
        raise NotAProcessor("LETHE_OPENDSR_DOMAIN needs LETHE_OPENDSR_KEY and LETHE_OPENDSR_CHAIN")
    domain = settings.opendsr_domain.lower()
    if urlsplit(settings.public_url).hostname != domain:
        raise NotAProcessor(f"LETHE_PUBLIC_URL is not an address of {domain}")
    try:
        key, chain = settings.opendsr_key.read_bytes(), settings.opendsr_chain.read_bytes()
    except OSError as error:
        raise NotAProcessor(f"{error.filename} cannot be read") from None
    return Processor.of(
        domain=domain, key_pem=key, chain_pem=chain, at=clock(), legacy=settings.opendsr_legacy_names
    )
