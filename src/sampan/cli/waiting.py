"""The exit status of a container, subscribed to before it starts so that it cannot be missed."""

from __future__ import annotations

from sampan.cli.http import Response
from sampan.cli.session import Session


class ExitWait:
    """``POST /containers/{id}/wait``: the headers come at once, the body when it has ended."""

    def __init__(self, session: Session, container: str, condition: str) -> None:
        query = (("condition", condition),) if condition else ()
        client = session.another_client()
        self._response: Response = client.request("POST", f"/containers/{container}/wait", query)
        self.status: int | None = None
        self._session = session

    def fileno(self) -> int:
        return self._response.fileno()

    def settle(self) -> None:
        """Waits for the answer without telling it: the start has failed and said why itself."""
        try:
            self._response.read()
        except ConnectionError:
            self._response.close()

    def collect(self) -> int:
        """Reads the answer (waits for it) and answers the status; 125 when it is lost with the daemon."""
        if self.status is None:
            try:
                answer = self._response.json()
            except ConnectionError as error:
                self._session.warn(f"error waiting for container: {error}")
                answer = {"StatusCode": 125}
            failure = (answer or {}).get("Error") or {}
            if failure.get("Message"):
                self._session.warn(f"Error waiting for container: {failure['Message']}")
                answer["StatusCode"] = 125
            self.status = int((answer or {}).get("StatusCode", 125))
        return self.status
