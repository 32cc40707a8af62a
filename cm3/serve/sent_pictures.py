"""Pictures of requests and answers: bytes, base64, data URLs and web addresses in; PNG, WebP and JPEG out.

    bytes | base64 | data: | http(s):  --read_bytes, read_base64, read_url-->  Image, decoded to its end
    picture  --encoded-->  bytes  --data_url-->  text

A web address is loaded only where `Settings.fetch` says so, and then: its name is resolved first, every address of it
must be one of the public internet, and the connection goes to the address that was checked. No redirect is followed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
from typing import Literal

import PIL.Image

from cm3.document import Image
from cm3.errors import DataError, shown
from cm3.files import said
from cm3.picture import rgb
from cm3.serve.limits import Settings
from cm3.serve.problem import Problem
from cm3.serve.service import Service
from cm3.tokens.noted import png_notes

Format = Literal["png", "webp", "jpeg"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
CODE = "invalid_image"
"""The word for programs in every error about a picture."""
SECONDS = 10.0
"""Most seconds that loading a picture from the web may take, from the first connection to the last byte."""
TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
_PIECE = 1 << 16
_GATEWAY = ipaddress.ip_network("64:ff9b::/96")
"""Addresses that end in one of version 4, which a gateway reaches for them (RFC 6052)."""


def read_bytes(data: bytes, name: str, settings: Settings) -> Image:
    """Return a picture's file as an `Image`, that was decoded to its end.

    Raises `Problem` 400, naming the field `name`, for more than `settings.picture_mb`, for bytes of no known format or
    cut short, and for more than `settings.pixels`, which is read off the header.
    """
    if len(data) > settings.picture_mb * 1e6:
        raise _too_long(name, settings)
    try:
        image = Image(data=data)
        wide, high = image.pixels.size
        if wide * high > settings.pixels:
            raise DataError(f"picture of {wide} x {high} pixels: more than {settings.pixels}; scale it down")
        image.pixels.load()
    except Exception as error:  # Pillow raises many kinds for a damaged file
        why = error if isinstance(error, DataError) else f"cannot be read to its end ({said(error)}); save it again"
        raise Problem(400, f"{name}: {why}", name, CODE) from error
    return Image(data=data)  # its pixels are let go until they are wanted: of many pictures they are much memory


def read_base64(text: str, name: str, settings: Settings) -> Image:
    """Return a picture in base64, RFC 4648 section 4, with padding and nothing else. Raises `Problem` as
    `read_bytes`."""
    if len(text) // 4 * 3 - 2 > settings.picture_mb * 1e6:  # before it is decoded
        raise _too_long(name, settings)
    try:
        data = base64.b64decode(text, validate=True)
        if len(text) != -(-len(data) // 3) * 4:  # Python's own check lets more padding pass than there may be
            raise ValueError("excess padding")
    except (binascii.Error, ValueError) as error:  # ValueError: what is not ASCII
        raise Problem(400, f"{name}: is no base64 ({said(error)}); encode the whole file", name, CODE) from error
    return read_bytes(data, name, settings)


def read_url(url: str, name: str, settings: Settings) -> Image:
    """Return the picture of a data URL or, where `settings.fetch` allows it, of a web address; blocks meanwhile.

    Raises `Problem` 400 as `read_bytes`, for any other URL, and for a web address that cannot or may not be loaded.
    """
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "data":
        head, comma, text = rest.partition(",")
        kind, *words = head.lower().split(";")
        if not comma or not kind.startswith("image/") or words[-1:] != ["base64"]:
            rule = "a data URL of a picture is data:image/png;base64,... with png or another format"
            raise Problem(400, f"{name}={shown(url)}: {rule}", name, CODE)
        return read_base64(text, name, settings)
    if not is_web(url):
        raise Problem(400, f"{name}={shown(url)}: is no URL of a picture; give data:image/png;base64,...", name, CODE)
    if not settings.fetch:
        why = "this server loads no pictures from the web; send the picture itself, as data:image/png;base64,..."
        raise Problem(400, f"{name}={shown(url)}: {why}", name, CODE)
    return read_bytes(fetch(url, name, int(settings.picture_mb * 1e6)), name, settings)


def is_web(url: str) -> bool:
    """Tell whether a URL is a web address, which takes time to load."""
    return url.partition(":")[0].lower() in ("http", "https")


def fetch(url: str, name: str, most: int, seconds: float = SECONDS) -> bytes:
    """Return up to `most` bytes that a web address gives. Raises `Problem` 400 for one that may not be loaded, and for
    any answer but 200."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
        if not host or parts.username is not None:
            raise ValueError("it has no host, or a user name")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(where[0]) for *_, where in found]
        for address in addresses:
            if not is_public(address):
                raise ValueError("its address is not one of the public internet")
        target = urllib.parse.urlunsplit(("", "", urllib.parse.quote(parts.path or "/", "/%:@!$&'()*+,;=~"), "", ""))
        target += f"?{urllib.parse.quote(parts.query, '/%:@!$&()*+,;=~?')}" if parts.query else ""
        return download(addresses[0], host, port, target, parts.scheme == "https", most, seconds)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Problem(400, f"{name}={shown(url)}: cannot be loaded ({said(error)})", name, CODE) from error


def is_public(address: str) -> bool:
    """Tell whether an address, as text, is one of the public internet: not private, loopback, link-local, multicast or
    reserved, nor one of version 6 that leads to such a one of version 4. Raises `ValueError` for what is none."""
    found: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _GATEWAY:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast and not found.is_reserved


def download(address: str, host: str, port: int, target: str, tls: bool, most: int, seconds: float) -> bytes:
    """Return what the server `host` at an address gives for `target`, with no redirect, in `seconds` at most.

    Raises `ValueError` for any answer but 200, for more than `most` bytes, and for the time; `OSError` and
    `http.client.HTTPException` where the connection fails.
    """
    late = threading.Event()
    end = time.monotonic() + seconds
    used = socket.create_connection((address, port), timeout=seconds)
    if tls:
        used = _wrapped(used, host)
    connection = http.client.HTTPConnection(host, port)
    connection.default_port = 443 if tls else 80  # for the header "Host"
    connection.sock = used

    def stop() -> None:
        late.set()
        with contextlib.suppress(OSError):
            used.shutdown(socket.SHUT_RDWR)  # wakes who reads from it, also one that gets a byte now and then

    timer = threading.Timer(max(0.0, end - time.monotonic()), stop)
    timer.daemon = True
    timer.start()
    try:
        connection.request("GET", target, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"the answer is {answer.status}, not 200; redirects are not followed")
        data = bytearray()
        while piece := answer.read(min(_PIECE, most + 1 - len(data))):
            data += piece
            if len(data) > most:
                raise ValueError(f"it has more than {most} bytes")
        if late.is_set():
            raise ValueError(f"it takes more than {seconds:g} s")
        return bytes(data)
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):  # the socket's own limit may pass before the timer runs
            raise ValueError(f"it takes more than {seconds:g} s") from error
        raise
    finally:
        timer.cancel()
        connection.close()
        used.close()


def _wrapped(plain: socket.socket, host: str) -> socket.socket:
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def encoded(picture: PIL.Image.Image, format: Format = "png", quality: int | None = None) -> bytes:
    """Return an RGB or RGBA picture as a file. PNG is exact, and so is WebP of `quality` 100, the default; WebP of less
    and JPEG are not. PNG comes with the codes that the picture was drawn from (cm3/tokens/noted.py). JPEG, which has no
    transparency, gets it laid on white."""
    saved, quality = io.BytesIO(), 100 if quality is None else quality
    if format == "png":
        # Of 6, the default, a third of the time for a quarter more bytes.
        picture.save(saved, "PNG", compress_level=2, pnginfo=png_notes(picture))
    elif format == "webp":
        exact = quality == 100  # `exact` keeps the colours of transparent pixels too
        picture.save(saved, "WEBP", lossless=exact, exact=exact, quality=75 if exact else quality)
    else:
        rgb(picture).save(saved, "JPEG", quality=quality, subsampling=0 if quality == 100 else -1)
    return saved.getvalue()


def check_quality(format: Format, quality: int | None, field: str) -> None:
    """Raise `Problem` 400 for a quality that a format has not."""
    if format == "png" and quality not in (None, 100):
        why = "png is exact and has no other than 100; leave it out, or give output_format webp or jpeg"
        raise Problem(400, f"{field}={quality}: {why}", field)


def data_url(data: bytes, format: Format) -> str:
    """Return a file as a data URL."""
    return f"data:{TYPES[format]};base64,{base64.b64encode(data).decode()}"


def _too_long(name: str, settings: Settings) -> Problem:
    return Problem(400, f"{name}: takes more than {settings.picture_mb:g} MB; scale it down", name, CODE)


async def url_picture(service: Service, url: str, name: str) -> Image:
    """Return the picture of a URL as `read_url`, without blocking the event loop; what the web gives takes its time in
    a thread of its own, and not at the desk."""
    if is_web(url):
        return await asyncio.to_thread(read_url, url, name, service.settings)
    return await service.desk(read_url, url, name, service.settings)
