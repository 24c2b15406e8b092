"""The audit of packages: nothing found, not asked and excepted are three different things."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from container import audit

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 12, 1)
# As pip-audit 2.10 writes it: one clean package, one vulnerable, one that the index does not know.
CLEAN: dict[str, Any] = {"name": "numpy", "version": "2.4.6", "vulns": []}
VULNERABLE: dict[str, Any] = {
    "name": "Jinja2", "version": "2.11.0",
    "vulns": [{"id": "PYSEC-2021-66", "aliases": ["CVE-2020-28493"], "fix_versions": ["2.11.3"]}],
}  # fmt: skip
UNKNOWN = {
    "name": "torch",
    "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)",
}
REASON = "templates are ours alone"


def judged(*packages: dict[str, Any], exceptions: tuple[audit.AuditException, ...] = ()) -> tuple[int, str]:
    code, told = audit.judge(audit.read_report({"dependencies": list(packages)}), exceptions, TODAY)
    return code, "\n".join(told)


def exception(
    expires: date, identifier: str = "CVE-2020-28493", package: str = "jinja2"
) -> audit.AuditException:
    return audit.AuditException(id=identifier, package=package, reason=REASON, expires=expires)


def test_clean_and_vulnerable() -> None:
    assert judged(CLEAN) == (0, "No known vulnerabilities.")
    code, told = judged(CLEAN, VULNERABLE)
    assert code == audit.FOUND
    assert "Jinja2 2.11.0: PYSEC-2021-66 CVE-2020-28493 (fixed in 2.11.3)" in told


def test_a_package_nobody_knows_is_not_a_clean_one() -> None:
    code, told = judged(CLEAN, UNKNOWN)
    assert code == audit.NOT_DONE
    assert "AUDIT NOT DONE for 1 packages" in told
    assert judged(VULNERABLE, UNKNOWN)[0] == audit.FOUND
    code, sentences = audit.judge(None, [], TODAY)
    assert code == audit.NOT_DONE
    assert "This is not a pass" in sentences[0]


def test_an_exception_holds_until_its_day() -> None:
    assert judged(VULNERABLE, exceptions=(exception(TODAY),))[0] == 0
    code, told = judged(VULNERABLE, exceptions=(exception(date(2026, 11, 30)),))
    assert code == audit.FOUND
    assert "EXPIRED EXCEPTION" in told
    assert "VULNERABLE" in told
    assert judged(CLEAN, exceptions=(exception(date(2026, 11, 30)),))[0] == audit.FOUND, (
        "even if none is left"
    )
    assert audit.judge(None, [exception(date(2026, 11, 30))], TODAY)[0] == audit.FOUND, "even offline"


@pytest.mark.parametrize("other", [{"package": "markupsafe"}, {"identifier": "CVE-2020-1"}])
def test_an_exception_is_for_one_vulnerability_of_one_package(other: dict[str, str]) -> None:
    assert judged(VULNERABLE, exceptions=(exception(TODAY, **other),))[0] == audit.FOUND


@pytest.mark.parametrize(
    "text", ["- {id: CVE-2020-28493, package: jinja2, expires: 2027-01-01}",
             f"- {{id: CVE-2020-28493, package: jinja2, reason: {REASON}}}",
             "- {id: CVE-2020-28493, package: jinja2, reason: no, expires: 2027-01-01}"],
)  # fmt: skip
def test_an_exception_without_reason_or_date_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exceptions.yaml").write_text(text)
    arguments = [str(ROOT / "requirements.lock"), "--exceptions", str(tmp_path / "exceptions.yaml")]
    assert audit.main(arguments) == audit.USAGE
    assert "0.reason" in (told := capsys.readouterr().err) or "0.expires" in told


def test_shipped_exceptions_are_in_date() -> None:
    assert all(entry.expires >= date.today() for entry in audit.read_exceptions(audit.EXCEPTIONS))


def test_every_pin_is_asked_about() -> None:
    pins = audit.pins_of([ROOT / "requirements.lock"])
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    assert len(pins) == len(lines)
    assert not [pin for pin in pins if "+" in pin or "sha256" in pin]


@pytest.mark.parametrize("offline, code", [([], audit.NOT_DONE), (["--may-be-offline"], 0)])
def test_no_service_is_said_aloud(
    offline: list[str], code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip-audit fails or answers nonsense: whatever it is, it was no audit."""
    silent = subprocess.CompletedProcess([], 1, stdout="", stderr="no route to host")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: silent)
    assert audit.main([str(ROOT / "requirements.lock"), *offline]) == code
    assert "AUDIT NOT DONE" in capsys.readouterr().out
