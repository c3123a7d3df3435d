# `make demo` shows what AutoDDPM does, `make test` checks that all of it works. Both make the environment in .venv first, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
LABCONFIG := $(VENV)/etc/jupyter/labconfig/default_setting_overrides.json
DOCS_VENV ?= .venv-docs

.DEFAULT_GOAL := help
.PHONY: help demo lab figures figures-smoke test test-browser browser export format clean-notebooks docs

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## evaluate the bundled weights on the bundled simulated cohort, and show the table
	@echo "== demo: evaluating every method on the simulated cohort; a minute or a few on two cores"
	$(BIN)/papermill nbs/eval.ipynb out.ipynb -p dataset atlas
	@table=$$(ls -t runs/eval/*/results.md | head -n 1); echo; cat "$$table"; \
	  echo; echo "Table:    $$table"; echo "Pictures:"; ls "$$(dirname "$$table")"/*.png | sed 's/^/          /'; \
	  echo "Notebook: out.ipynb, as it ran, with the pictures in it"

figures-smoke: $(INSTALLED)  ## every figure and table of the paper from a few simulated slices, to see that all of it runs; only what is out of date
	$(BIN)/autoddpm reproduce --profile smoke --source simulated --workers 2

figures: $(INSTALLED)  ## every figure and table of the paper in full; hours without a GPU, and only what is out of date
	$(BIN)/autoddpm reproduce --profile full

test: $(INSTALLED) $(LABCONFIG)  ## check the notebooks and what is exported from them, and run them all
	@$(BIN)/python tools/run_tests.py

test-browser: $(INSTALLED) $(LABCONFIG)  ## run notebooks in JupyterLab in a real Chromium (installs what is missing); screenshots in runs/browser
	@$(BIN)/python tools/browser.py && $(BIN)/python -m pytest tests/test_browser.py --all-notebooks -v

browser: $(INSTALLED)  ## get what the tests in a browser need: Playwright by pip, Chromium by apt-get; then `make test` runs them too
	@$(BIN)/python tools/browser.py

lab: $(INSTALLED) $(LABCONFIG)  ## open the notebooks in JupyterLab; it saves when told to, so that running alone changes no file
	$(BIN)/jupyter lab

export: $(INSTALLED)  ## write autoddpm/ from the notebooks
	$(BIN)/nbdev_export

format: $(INSTALLED)  ## lay out the code of notebooks, tools and tests, as `make test` asks for
	$(BIN)/ruff check -q --fix --select I . || true
	$(BIN)/ruff format -q .
	$(BIN)/nbdev_export

clean-notebooks: $(INSTALLED)  ## strip what should not be committed from the notebooks (their outputs stay)
	$(BIN)/nbdev_clean

docs: $(INSTALLED) $(DOCS_VENV)/installed  ## the site, from the notebooks as they are stored: _docs/html/index.html
	@OMP_NUM_THREADS=1 $(BIN)/python tools/build_docs.py $(DOCS_VENV)/bin/sphinx-build

$(DOCS_VENV)/installed: docs/requirements.txt
	@echo "== environment of the site: $(DOCS_VENV), from docs/requirements.txt; once"
	@$(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --disable-pip-version-check -q -r docs/requirements.txt
	@touch $@

# Autosave writes outputs and execution counts into notebooks that were only run, which git then shows as changed. So
# JupyterLab of this environment (and no other) saves by Ctrl-S alone; its settings menu can turn autosave on again.
$(LABCONFIG): tools/jupyterlab.json $(INSTALLED)
	@mkdir -p $(@D)
	@cp $< $@

$(INSTALLED): constraints.txt settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; $(PYTHON) is older. Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "== environment: $(VENV), from constraints.txt; some minutes, once (log: $(VENV)/install.log)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' >$(VENV)/install.log 2>&1 || \
	  { tail -n 20 $(VENV)/install.log; echo "installing failed, see $(VENV)/install.log"; exit 1; }
	@touch $@
