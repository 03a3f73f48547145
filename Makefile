# make demo   build the environment, run every notebook on the demo configuration, write reports/index.html
# make test   run the tests            make lab    open the notebooks        make lint   check the style
# make clean  remove .venv and caches (never data/ or reports/)              make lock   renew requirements.lock

SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
  $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV := .venv
READY := $(VENV)/.synced

# An active environment other than .venv is used as it is when this very clone and its dependencies are installed there.
# python -I leaves the current folder out, in which `import sslib` would always succeed.
ACTIVE := $(filter-out $(CURDIR)/$(VENV),$(firstword $(VIRTUAL_ENV) $(CONDA_PREFIX)))
define HAS_PACKAGE
import importlib.metadata as m, importlib.util as u, pathlib, re, sys
names = [re.split("[^A-Za-z0-9_.-]", r)[0] for r in m.requires("sslib")]
[m.version(name) for name in names]
sys.exit(pathlib.Path(u.find_spec("sslib").origin).resolve().parents[1] != pathlib.Path.cwd().resolve())
endef
export HAS_PACKAGE
ifneq ($(ACTIVE),)
  ifeq ($(shell "$(ACTIVE)/bin/python" -I -c "$$HAS_PACKAGE" >/dev/null 2>&1 && echo yes),yes)
    RUN := $(ACTIVE)/bin/python
    READY :=
  endif
endif
RUN ?= $(VENV)/bin/python
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: demo test lab lint clean lock env
.DEFAULT_GOAL := demo

demo: $(READY)
	"$(RUN)" -m sslib run notebooks/configs/demo.yaml

test: $(READY)
	"$(RUN)" -m pytest

lab: $(READY)
	"$(RUN)" -m jupyter lab --config=notebooks/lab/jupyter_server_config.py $(ROOT) notebooks

lint: $(READY)
	"$(RUN)" -m ruff check .
	"$(RUN)" -m ruff format --check .

env: $(READY)
	@echo "environment: $(RUN)"

# uv is not on a fresh machine; from PyPI it costs seconds and installs the lock several times faster than pip.
# Compiling once here spares every kernel 15 s of importing where PYTHONDONTWRITEBYTECODE is set, as in many containers.
# The stamp is written last, so an interrupted installation is taken up again.
$(VENV)/.synced: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; found: $$(python3 --version 2>&1)." >&2; \
	  echo "Install it, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments." >&2; \
	  echo "On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@$(VENV)/bin/python -m uv --version >/dev/null 2>&1 || $(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/python -m uv pip sync --compile-bytecode --python $(VENV)/bin/python requirements.lock
	$(VENV)/bin/python -m uv pip install --python $(VENV)/bin/python --no-deps -e .
	@touch $@

# Names, versions and hashes only. environment.yml repeats the direct ones: tests/test_house.py says which differ.
lock: $(VENV)/.synced
	$(VENV)/bin/python -m uv pip compile --universal --generate-hashes pyproject.toml --all-extras \
	  -o requirements.lock

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
