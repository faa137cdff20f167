# Every target sets up what it needs in .venv first; all it takes is make and Python 3.11 or newer.
# .venv is make's own: it is removed and made anew when it is not sound.
# Paths in recipes are relative, so the checkout may lie anywhere, under a path with blanks too.
# Another Python: make PYTHON=python3.12 test

PYTHON ?= python3

SHELL := /bin/sh
.SHELLFLAGS := -ec
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo lab test soak bench check clean FORCE

stop = stop() { echo "make: $$*" >&2; exit 1; }

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

demo: .venv/.core ## fetch from the lab over a lossy path: the RTT table, and the sequence plot in demo.png
	@$(lab-user)
	$$as .venv/bin/nbtcp fetch /bytes/300000 --lab --delay 0.02 --loss 0.01 --rate 10e6 \
		--queue 64 --seed 3 --rtt --plot demo.png -o demo.out
	[ -z "$$as" ] || sudo chown "$$(id -u):$$(id -g)" demo.png demo.out
	echo "The sequence plot is in demo.png, the page in demo.out."

lab: .venv/.all ## open JupyterLab on the notebooks
	@$(lab-user)
	if [ -n "$$as" ] && ! sudo -v; then
		echo "Without root, then: live notebooks show recordings."
		as=
	fi
	$$as .venv/bin/nbtcp lab

test: .venv/.all ## run the tests, then the notebooks against their saved outputs
	@if [ "$$(id -u)" != 0 ]; then
		echo "Not root: tests that need root are skipped. As root, or with sudo make test, all of them run."
	fi
	.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal
	for round in first second; do
		echo "The notebooks, for the $$round time: those of the simulator strictly, live ones loosely."
		.venv/bin/python -m pytest -n $(WORKERS) --dist loadscope --nbval $(nbval) $(filter-out $(live),$(lessons))
		NBTCP_OFFLINE=1 .venv/bin/python -m pytest -n $(WORKERS) --dist loadscope --nbval-lax $(nbval) $(live)
	done

# Two processes: much of the time goes into waiting. Whoever wants one: make test WORKERS=0
WORKERS ?= 2
nbval = --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval-sanitize.cfg
lessons := $(sort $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb))
live := $(foreach number,00 08 09 12,$(filter notebooks/$(number)-% notebooks/solutions/$(number)-%,$(lessons)))

soak: .venv/.all ## test for an hour: theory, random schedules, a grid of networks, starts on a LAN
	@if [ "$$(id -u)" != 0 ]; then
		echo "Not root: the grid of networks is skipped. As root, or with sudo make soak, all of it runs."
	fi
	NBTCP_SOAK=1 .venv/bin/python -m pytest --timeout 3600 \
		tests/test_random_schedules.py tests/test_theory.py tests/test_soak.py tests/test_lan.py \
		tests/test_live.py tests/test_tshark.py tests/test_course.py

bench: .venv/.core ## measure the speed of fetches, tables and pictures
	@$(lab-user)
	$$as .venv/bin/python benchmarks/fetch.py
	.venv/bin/python benchmarks/tables.py

check: .venv/.all ## ruff, its formatter, and mypy
	@.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy nbtcp

clean: ## remove .venv, caches and what make demo wrote
	@rm -rf .venv build dist demo.png demo.out notebooks/*.svg .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# The lab: root has it, and so has an ordinary user where user namespaces are allowed.

lab-works = .venv/bin/nbtcp doctor --quiet >/dev/null 2>&1

# Sets $as, which stands before a command that uses the lab: empty, or sudo where that is what helps.
# Where neither helps, the command itself says what is missing.
define lab-user
as=
if ! $(lab-works) && [ "$$(id -u)" != 0 ] && command -v sudo >/dev/null; then
	echo "This user cannot make the lab's private network here: running it as root, with sudo."
	as="sudo -H env PYTHONDONTWRITEBYTECODE=1"
fi
endef

# The environment: .made is the bare one, .core has nbtcp, .all has the extras lab and test too. Each of
# these files is written last, so that what was interrupted is done again.

extras := [lab,test]

.venv/.core: .venv/.made pyproject.toml
	@$(call install,.)
	touch $@

.venv/.all: .venv/.made pyproject.toml
	@$(call install,.$(extras))
	touch .venv/.core $@

define install
$(stop)
[ -w .venv ] || stop ".venv belongs to another user: remove it (sudo rm -rf .venv) and try again"
echo "Installing nbtcp$(patsubst .%,%,$(1)) into .venv; the first time this takes a minute or two."
touch .venv/.installing
.venv/bin/python -m pip install --disable-pip-version-check -e '$(1)' >.venv/install.log 2>&1 || {
	rm .venv/.installing
	stop "pip could not install; is the network there? $$(grep -o 'ERROR: .*' .venv/install.log | tail -n 1)" \
		"(the whole story: .venv/install.log)"
}
rm .venv/.installing
endef

# Runs every time and keeps the environment when it is sound: it has a Python and pip that start, it was
# made for this place, no install was cut off in it, and it is of the PYTHON asked for on the command line.
.venv/.made: FORCE
	@$(stop)
	version='import sys; print("%d.%d" % sys.version_info[:2])'
	if $(sound); then exit 0; fi
	hint="nbtcp needs 3.11 or newer: install it (Debian, Ubuntu: sudo apt install python3 python3-venv)"
	hint="$$hint or name the one you have: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"
	command -v "$(PYTHON)" >/dev/null || stop "there is no $(PYTHON) here; $$hint"
	found=$$("$(PYTHON)" -c "$$version" 2>/dev/null) || stop "$(PYTHON) does not start; $$hint"
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "$(PYTHON) is Python $$found; $$hint"
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || stop "$(PYTHON) has no venv: install it" \
		"(Debian, Ubuntu: sudo apt install python$$found-venv)"
	[ ! -e .venv ] || [ -w .venv ] || stop ".venv belongs to another user: remove it (sudo rm -rf .venv) and try again"
	rm -rf .venv
	"$(PYTHON)" -m venv .venv || stop "$(PYTHON) could not make .venv"
	pwd >.venv/.place
	touch $@

define sound
[ -e .venv/.made ] && [ ! -e .venv/.installing ] && [ "$$(cat .venv/.place)" = "$$(pwd)" ] \
	&& .venv/bin/python -c 'import pip' 2>/dev/null $(if $(filter command environment,$(origin PYTHON)),$(same-python))
endef
same-python = && [ "$$(.venv/bin/python -c "$$version")" = "$$("$(PYTHON)" -c "$$version" 2>/dev/null)" ]
