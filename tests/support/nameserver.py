"""A name server for tests, and a client: who is asked, and what a container hears."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import dnslib


def ask(
    name: str,
    kind: str = "A",
    *,
    server: str = "127.0.0.11",
    tcp: bool = False,
    edns: int = 0,
    timeout_s: float = 8.0,
) -> Any:
    """The answer as dnslib has it. Raises TimeoutError, OSError."""
    question = dnslib.DNSRecord.question(name, kind)
    if edns:
        question.add_ar(dnslib.EDNS0(udp_len=edns))
    data = bytes(question.pack())
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        client.connect((server, 53))
        if not tcp:
            client.send(data)
            answer = client.recv(65535)
        else:
            client.sendall(len(data).to_bytes(2, "big") + data)
            with client.makefile("rb") as file:
                answer = file.read(int.from_bytes(file.read(2), "big"))
    read = dnslib.DNSRecord.parse(answer)
    assert read.header.id == question.header.id
    return read


def shown(answer: Any) -> list[str]:
    """The data of the records of an answer."""
    return [str(record.rdata) for record in answer.rr]


class NameServer:
    """Answers on port 53 of one address, in a child process in this network namespace.

    ``name`` -> how it is answered: a list of addresses with TTL 60; "truncated" over UDP, whole over TCP;
    "silent"; "broken" (SERVFAIL). Others do not exist. ``count()`` says how many questions have come.
    """

    def __init__(self, address: str, names: dict[str, list[str] | str]) -> None:
        self._names = names
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind((address, 53))
        tcp.bind((address, 53))
        tcp.listen(8)
        self._counter = os.memfd_create("questions")
        self.pids = [os.fork() or self._serve(udp, None), os.fork() or self._serve(None, tcp)]
        udp.close()
        tcp.close()

    def count(self) -> int:
        return os.fstat(self._counter).st_size

    def _serve(self, udp: socket.socket | None, tcp: socket.socket | None) -> int:
        signal.alarm(120)
        try:
            while True:
                if udp is not None:
                    data, peer = udp.recvfrom(4096)
                    os.pwrite(self._counter, b".", os.fstat(self._counter).st_size)
                    if answer := self._answer(data, False):
                        udp.sendto(answer, peer)
                else:
                    assert tcp is not None
                    connection, _ = tcp.accept()
                    data = connection.recv(4096)[2:]
                    answer = self._answer(data, True)
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)
                    connection.close()
        finally:
            os._exit(0)

    def _answer(self, data: bytes, over_tcp: bool) -> bytes:
        question = dnslib.DNSRecord.parse(data)
        reply = question.reply()
        name = str(question.q.qname).rstrip(".").lower()
        known = self._names.get(name)
        if known == "silent":
            return b""
        if known == "broken":
            reply.header.rcode = dnslib.RCODE.SERVFAIL
        elif known is None:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        elif known == "truncated" and not over_tcp:
            reply.header.tc = 1
        else:
            listed = [f"192.0.2.{n}" for n in range(1, 101)] if known == "truncated" else known
            for address in listed:
                reply.add_answer(*dnslib.RR.fromZone(f"{question.q.qname} 60 IN A {address}"))
        return bytes(reply.pack())

    def close(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(self._counter)
