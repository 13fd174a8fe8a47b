"""What is built is what works: the wheel (made from the sdist) in an environment of its own, in another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
SHIPPED_WITH_THE_PACKAGE = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "alembic.ini", *(ROOT / "alembic").rglob("*")]
    if path.is_file() and path.suffix in {".ini", ".py", ".mako"}
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of a new environment with the wheel in it.

    The dependencies are those of the environment that runs the tests; its .pth files, and so its editable
    install of the package, don't reach the new one.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    scripts = folder / "bin"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        scripts / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    )
    places = run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(places) / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    return scripts


def run(*command: object, cwd: Path | None = None, status: int = 0) -> str:
    """Run a command that knows nothing of the checkout; return what it printed."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_holds_the_package_and_its_migrations(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path in SHIPPED_WITH_THE_PACKAGE:
            assert archive.read(f"findings_orm/{path}") == (ROOT / path).read_bytes(), path
    assert "findings_orm/alembic/script.py.mako" in names
    assert any(name.startswith("findings_orm/alembic/versions/r0001_") for name in names)
    assert "findings_orm/py.typed" in names
    assert "findings_orm/formats/sarif_schema.json" in names
    assert {name.partition("/")[0] for name in names} == {"findings_orm", "findings_orm-0.1.0.dist-info"}
    assert {Path(name).suffix for name in names if name.startswith("findings_orm/")} <= {
        ".json", ".py", ".ini", ".mako", ".typed",
    }  # fmt: skip
    assert "findings_orm/alembic/__init__.py" not in names


def test_the_sdist_holds_what_is_needed_to_build_and_test(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "scripts/test",
        "tests/test_packaging.py",
    }
    assert wanted | set(SHIPPED_WITH_THE_PACKAGE) <= names


def test_an_install_requires_three_libraries(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("findings_orm-0.1.0.dist-info/METADATA").decode()
    metadata = Parser().parsestr(text)
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [line.partition(">")[0] for line in required] == ["alembic", "pydantic", "sqlalchemy"]
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_installed_package_opens_a_database(installed: Path, tmp_path: Path) -> None:
    code = (
        "import findings_orm; print(findings_orm.__file__)\n"
        "with findings_orm.open_storage('sqlite:///x.db') as store: print(store.health().ok)"
    )
    place, ok = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(place).is_relative_to(installed.parent)
    assert ok == "True"
    assert (tmp_path / "x.db").exists()


def test_alembic_works_with_the_packaged_ini(installed: Path, tmp_path: Path) -> None:
    code = "from findings_orm.migrations import alembic_ini; print(alembic_ini())"
    ini = run(installed / "python", "-c", code, cwd=tmp_path).strip()
    assert Path(ini).is_relative_to(installed.parent)
    alembic = (installed / "python", "-m", "alembic", "-c", ini, "-x", "url=sqlite:///x.db")
    run(*alembic, "upgrade", "head", cwd=tmp_path)
    assert "(head)" in run(*alembic, "current", cwd=tmp_path)
    assert "No new upgrade operations" in run(*alembic, "check", cwd=tmp_path)
    run(*alembic, "downgrade", "base", cwd=tmp_path)
    assert "(head)" not in run(*alembic, "current", cwd=tmp_path)


def test_the_command_works(installed: Path, tmp_path: Path) -> None:
    assert "import" in run(installed / "findings", "--help", cwd=tmp_path)
    run(installed / "findings", "db", "upgrade", cwd=tmp_path)
    assert (tmp_path / "findings.db").exists()


def test_the_command_says_which_extra_it_needs(installed: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['typer'] = None; from findings_orm.cli import main; sys.exit(main())"
    said = run(installed / "python", "-c", code, cwd=tmp_path, status=1)
    assert "findings-orm[cli]" in said
    assert "Traceback" not in said
