"""Which requests a server without a password takes: those of its own site, over HTTP and websockets."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from ideator_rl.bridges.same_site import SameSite, host_names
from ideator_rl.errors import IdeatorError

OWN = [
    {"host": "127.0.0.1:8000"},
    {"host": "localhost"},
    {"host": "[::1]:8000", "origin": "http://[::1]:8000"},
    {"host": "10.0.0.5:8000", "origin": "http://10.0.0.5:8000"},
    {"host": "Trainer.Lab:8000", "origin": "https://trainer.lab:8000"},
    {"host": "gateway.lab"},
]
FOREIGN = [
    {"host": "rebound.example:8000", "origin": "http://rebound.example:8000"},
    {"host": "127.0.0.1.rebound.example"},
    {"host": "localhost:8000", "origin": "http://page.example"},
    {"host": "localhost:8000", "origin": "http://localhost:9000"},
    {"host": "localhost:8000", "origin": "null"},
    {"host": "[::1:8000"},
    {"host": ""},
]


async def greet(websocket):
    await websocket.accept()
    await websocket.send_text("welcome")
    await websocket.close()


@pytest.fixture
def client():
    async def step(request):
        return PlainTextResponse("welcome")

    app = Starlette(routes=[Route("/step", step, methods=["POST"]), WebSocketRoute("/ws", greet)])
    app.add_middleware(SameSite, names=host_names(["trainer.lab", "Gateway.lab:8000", "::1"]))
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_requests_of_its_own_site_are_taken(client, headers):
    assert client.post("/step", headers=headers).text == "welcome"
    with client.websocket_connect("/ws", headers=headers) as socket:
        assert socket.receive_text() == "welcome"


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_requests_of_other_sites_are_refused(client, headers):
    answer = client.post("/step", headers=headers)
    assert answer.status_code == 403 and "--allowed-host" in answer.text
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=headers) as socket:
        socket.receive_text()


def test_what_is_no_name_of_a_machine_is_refused():
    with pytest.raises(IdeatorError, match=r"\[::1'.*closed brackets"):
        host_names(["trainer.lab", "[::1"])
