"""The real client of the Hub against a server of the same interface, each client in a process of its own."""

from __future__ import annotations

import hashlib
import re

import hub_clients as clients
import pytest
import torch
from hub_models import files_of, small_model

import rsnn
from rsnn import nn
from rsnn.errors import CheckpointError, InputError
from rsnn.hub import WeightsEntry

REPO = "someone/gestures"


@pytest.fixture
def files(model, tmp_path):
    return files_of(model, tmp_path / "published")


@pytest.fixture
def expected(model):
    return clients.describe(model)


def entry(files, **changes):
    known = {
        "name": "rsnn-nmnist-cl",
        "tag": "test",
        "sha256": hashlib.sha256(files["model.safetensors"]).hexdigest(),
        "size_bytes": len(files["model.safetensors"]),
        "parameters": 1,
        "classes": 3,
        "data": "none",
        "split": "none",
        "metrics": {},
        "licence": "Apache-2.0",
        "repo": REPO,
    }
    return WeightsEntry(**known | changes)


def test_download_then_cache(server, client, files, expected):
    server.add(REPO, {**files, "pytorch_model.bin": b"a pickle", "notes/config.json": b"{}"})
    first = client()
    assert first(clients.load, REPO) == expected
    assert first(clients.load, f"hf-hub:{REPO}") == expected
    assert first(clients.load_as, "RSNN", f"{REPO}@main") == expected
    assert not server.asked("pytorch_model.bin")
    assert not server.asked("resolve/notes")
    assert all("rsnn/" + rsnn.__version__ in headers["user-agent"] for _, _, headers in server.asked("/api/models/"))
    server.stop()
    assert client()(clients.load, REPO) == expected
    with pytest.raises(
        CheckpointError, match=r"someone/other: not in the local cache, and the Hub was not reached \(.+"
    ):
        client()(clients.load, "someone/other")


def test_offline_and_local_files_only(server, client, files, expected):
    server.add(REPO, files)
    with pytest.raises(CheckpointError, match=r"not in the local cache.*local_files_only"):
        client()(clients.load, REPO, local_files_only=True)
    with pytest.raises(CheckpointError, match=r"not in the local cache.*HF_HUB_OFFLINE"):
        client(HF_HUB_OFFLINE="1")(clients.load, REPO)
    assert server.requests == []
    assert client()(clients.load, REPO) == expected
    asked = len(server.requests)
    assert client(HF_HUB_OFFLINE="1")(clients.load, REPO) == expected
    assert client()(clients.load, REPO, local_files_only=True) == expected
    assert len(server.requests) == asked
    with pytest.raises(InputError, match="contradict"):
        client()(clients.load, REPO, local_files_only=True, force_download=True)
    with pytest.raises(InputError, match=r"force_download=True cannot download anything while HF_HUB_OFFLINE is set"):
        client(HF_HUB_OFFLINE="1")(clients.load, REPO, force_download=True)


def test_class_of_a_download(server, client, files):
    server.add(REPO, files)
    with pytest.raises(CheckpointError, match=r"someone/gestures is a RSNN, not a SCNN.*rsnn\.RSNN\.from_pretrained"):
        client()(clients.load_as, "SCNN", REPO)


def test_zoo_entry_on_the_hub_is_pinned_and_verified(server, client, files, expected, tmp_path):
    repository = server.add(REPO, files)
    pinned = repository.refs["main"]
    repository.commit(files_of(small_model(seed=1), tmp_path / "newer"))
    assert client()(clients.load_entry, entry(files, commit=pinned)) == expected
    with pytest.raises(CheckpointError, match=r"rsnn-nmnist-cl\.test: .* published is 0{64}\. The file was not used"):
        client()(clients.load_entry, entry(files, commit=pinned, sha256="0" * 64))


def test_damaged_download_is_mended_by_force_download(server, client, files, expected, tmp_path):
    repository = server.add(REPO, files)
    published = entry(files, commit=repository.refs["main"])
    assert client()(clients.load_entry, published) == expected
    (blob,) = [p for p in (tmp_path / "huggingface/hub").rglob("*") if p.name == published.sha256]
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"The file was not used.*force_download=True"):
        client()(clients.load_entry, published)
    assert client()(clients.load_entry, published, force_download=True) == expected


def test_missing_repository_and_revision(server, client, files, expected):
    repository = server.add(REPO, files)
    repository.refs["v1"] = repository.refs["main"]
    user = client()
    for options in ({}, {"token": "hf_reader"}):  # the Hub answers strangers 401 and users 404
        with pytest.raises(CheckpointError, match="someone/nothing: the Hub has no such repository, or it is private"):
            user(clients.load, "someone/nothing", **options)
    for source, options in ((f"{REPO}@v2", {}), (REPO, {"revision": "v2"})):
        with pytest.raises(CheckpointError, match="someone/gestures@v2: the repository has no such branch"):
            user(clients.load, source, **options)
    assert user(clients.load, f"{REPO}@v1") == expected
    assert user(clients.load, REPO, revision="v1") == expected
    with pytest.raises(InputError, match="one revision"):
        user(clients.load, f"{REPO}@v1", revision="main")
    with pytest.raises(CheckpointError, match="is not a repository on the Hub"):
        user(clients.load, "a--b/-c-")


def test_a_folder_is_not_taken_for_a_repository(server, client, model, tmp_path):
    model.save_pretrained(tmp_path / REPO)
    with pytest.raises(CheckpointError, match=r"no such repository.*To load the folder write '\./someone/gestures'"):
        client()(clients.load_in, str(tmp_path), REPO)
    server.stop()
    with pytest.raises(CheckpointError, match=r"was not reached.*To load the folder write '\./someone/gestures'"):
        client()(clients.load_in, str(tmp_path), REPO)


def test_repository_without_a_checkpoint(server, client):
    server.add(REPO, {"README.md": b"# Nothing"})
    with pytest.raises(CheckpointError, match=r"has no config\.json; expected a repository that push_to_hub wrote"):
        client()(clients.load, REPO)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_something_else_answers(server, client, status, checkpoint):
    """A proxy's page, another web server, a server in trouble."""
    server.page = (status, b"<html>Please log in</html>")
    user = client(HF_TOKEN="hf_writer")
    with pytest.raises(CheckpointError, match=f"^{REPO}: .*(the download failed|the Hub was not reached)"):
        user(clients.load, REPO)
    with pytest.raises(CheckpointError, match=f"^{REPO}: .*the upload failed"):
        user(clients.push, str(checkpoint), REPO)


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_private_and_gated(server, client, files, expected, kind):
    server.add(REPO, files, **{kind: True})
    message = {"private": "or it is private and no valid token was sent", "gated": "access is gated; accept its terms"}
    for options in ({}, {"token": "hf_stranger"}):
        with pytest.raises(CheckpointError, match=message[kind]):
            client()(clients.load, REPO, **options)
    assert client(HF_TOKEN="hf_reader")(clients.load, REPO) == expected
    assert client()(clients.load, REPO, token="hf_reader", force_download=True) == expected


def test_one_load_is_one_commit(server, client, files, expected, tmp_path):
    """Main moves when the first file is asked for; all files are of the commit before."""
    repository = server.add(REPO, files)
    newer = small_model(seed=1)
    newer_files = files_of(newer, tmp_path / "newer")
    before = repository.refs["main"]

    def push(path):
        if "/resolve/" in path and repository.refs["main"] == before:
            repository.commit(newer_files)

    server.before = push
    assert client()(clients.load, REPO) == expected
    assert repository.refs["main"] != before
    assert {re.search("resolve/(.*?)/", path)[1] for _, path, _ in server.asked("/resolve/")} == {before}
    assert client()(clients.load, REPO) == clients.describe(newer)
    assert client()(clients.load, f"{REPO}@{before}") == expected


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A checkpoint of more than one of the client's chunks of 10 MiB, so that it can resume."""
    head = nn.LSTMHead(2, 3, (32, 32))
    model = rsnn.ConvLSTMClassifier(nn.FramePool(2), head).eval()
    files = files_of(model, tmp_path_factory.mktemp("large"))
    assert len(files["model.safetensors"]) > 20 * 2**20
    return clients.describe(model), files


def test_cut_connection_resumes(server, client, large):
    expected, files = large
    server.add(REPO, files)
    server.cut_after, server.cuts = 15 * 2**20, 1
    user = client()
    try:
        loaded = user(clients.load, REPO)
    except CheckpointError:  # the client's first versions take it up again in the next call only
        loaded = user(clients.load, REPO)
    assert loaded == expected
    ranges = [headers.get("range") for method, _, headers in server.asked("/store/") if method == "GET"]
    first, second = ranges
    assert first is None
    assert 0 < int(re.fullmatch(r"bytes=(\d+)-", second)[1]) <= server.cut_after


def test_reset_connection_is_one_error_and_the_next_load_completes(server, client, large):
    expected, files = large
    server.add(REPO, files)
    server.cut_after, server.cuts, server.reset = 15 * 2**20, 1, True
    user = client()
    with pytest.raises(CheckpointError, match=r"someone/gestures: the download failed \(.+\)\. Try again"):
        user(clients.load, REPO)
    done = len(server.asked("config.json"))
    assert user(clients.load, REPO) == expected
    assert len(server.asked("config.json")) == done, "what was complete is kept"


@pytest.mark.slow
def test_server_dies_in_mid_transfer(server, client, large):
    expected, files = large
    server.add(REPO, files)
    server.cut_after, server.cuts, server.stop_after_cuts = 15 * 2**20, 1, True
    user = client()
    with pytest.raises(CheckpointError, match=r"someone/gestures: the download failed \(.+\)\. Try again"):
        user(clients.load, REPO)
    with pytest.raises(CheckpointError, match=r"someone/gestures: .* while online"):
        user(clients.load, REPO)
    server.start()
    assert user(clients.load, REPO) == expected


def test_push_and_load(server, client, model, checkpoint, expected):
    url = client()(clients.push, str(checkpoint), REPO, token="hf_writer")
    assert url == f"{server.url}/{REPO}"
    repository = server.repositories[REPO]
    uploaded = repository.commits[repository.refs["main"]]
    assert sorted(uploaded) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert uploaded["README.md"].startswith(b"---\n")
    assert b'rsnn.RSNN.from_pretrained("someone/gestures")' in uploaded["README.md"]
    assert [method for method, _, _ in server.asked("/store/")] == ["PUT"]
    assert client()(clients.load_as, "RSNN", REPO) == expected


def test_push_a_folder_as_it_stands(server, client, checkpoint, expected):
    """Its own card, and results on a benchmark of the Hub; what belongs to no checkpoint stays here."""
    (checkpoint / "README.md").write_text("---\nlibrary_name: rsnn\n---\n# Mine\n")
    (checkpoint / ".eval_results").mkdir()
    (checkpoint / ".eval_results/bars.yaml").write_text("- dataset: {id: someone/bars, task_id: default}\n  value: 1\n")
    (checkpoint / "notes.txt").write_text("private")
    user = client(HF_TOKEN="hf_writer")
    user(clients.push_folder, str(checkpoint), REPO)
    repository = server.repositories[REPO]
    uploaded = repository.commits[repository.refs["main"]]
    names = [".eval_results/bars.yaml", ".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert sorted(uploaded) == names
    assert uploaded["README.md"].endswith(b"# Mine\n")
    assert user(clients.load, REPO) == expected


def test_a_card_that_is_pushed_says_where_it_is_loaded_from(server, client, checkpoint, expected):
    card = (checkpoint / "README.md").read_bytes()
    assert b'from_pretrained("./this-folder")' in card
    user = client(HF_TOKEN="hf_writer")
    url = user(clients.push_folder, str(checkpoint), REPO)
    assert url.endswith(REPO)
    repository = server.repositories[REPO]
    uploaded = repository.commits[repository.refs["main"]]["README.md"]
    assert uploaded == card.replace(b"./this-folder", REPO.encode())
    assert (checkpoint / "README.md").read_bytes() == card
    assert user(clients.load, REPO) == expected


def test_push_in_half_precision(server, client, model, checkpoint):
    client()(clients.push, str(checkpoint), REPO, token="hf_writer", dtype=torch.float16)
    loaded = client()(clients.load, REPO)
    for tensor in model.state_dict().values():
        if tensor.ndim > 1:
            tensor.copy_(tensor.half().float())
    assert loaded == clients.describe(model)


def test_push_over_a_former_model(server, client, checkpoint, expected, tmp_path):
    repository = server.add(REPO, files_of(small_model(seed=1), tmp_path / "former"))
    former = repository.refs["main"]
    user = client(HF_TOKEN="hf_writer")
    user(clients.push, str(checkpoint), REPO, commit_message="Better weights")
    assert user(clients.load, REPO) == expected
    assert user(clients.load, f"{REPO}@{former}") == clients.describe(small_model(seed=1))


def test_push_private(server, client, checkpoint, expected):
    user = client()
    user(clients.push, str(checkpoint), REPO, token="hf_writer", private=True)
    assert server.repositories[REPO].private
    with pytest.raises(CheckpointError, match="or it is private"):
        user(clients.load, REPO)
    assert user(clients.load, REPO, token="hf_writer") == expected


@pytest.mark.parametrize("exists", [False, True])
def test_push_refused(server, client, checkpoint, files, exists):
    if exists:
        server.add(REPO, files)
    user = client()
    with pytest.raises(CheckpointError, match=r"someone/gestures: the Hub refuses the upload \(403\).*token"):
        user(clients.push, str(checkpoint), REPO, token="hf_reader")
    with pytest.raises(CheckpointError, match=r"someone/gestures: the Hub refuses the upload \(401\).*token"):
        user(clients.push, str(checkpoint), REPO)
    assert (REPO in server.repositories) == exists


def test_push_to_a_missing_branch_or_a_dead_server(server, client, checkpoint, files):
    server.add(REPO, files)
    user = client(HF_TOKEN="hf_writer")
    with pytest.raises(CheckpointError, match="someone/gestures@dev: the repository has no such branch"):
        user(clients.push, str(checkpoint), REPO, revision="dev")
    with pytest.raises(CheckpointError, match=r"no such branch.*create_branch makes one"):
        user(clients.push_folder, str(checkpoint), REPO, revision="dev")
    server.stop()
    with pytest.raises(CheckpointError, match="someone/gestures: the upload failed"):
        user(clients.push, str(checkpoint), REPO)


def test_push_to_what_is_no_name(model):
    with pytest.raises(InputError, match="repo is None; expected the name of a repository on the Hub"):
        model.push_to_hub(None)
    with pytest.raises(InputError, match="folder is None; expected the path of a folder"):
        rsnn.hub.push(None, REPO)


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_a_folder_without_a_checkpoint_makes_no_repository(server, client, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config.json; expected a folder that save_pretrained wrote"):
        client(HF_TOKEN="hf_writer")(clients.push_folder, str(tmp_path / folder), "me/nothing")
    assert not server.asked("/api/repos/create")
