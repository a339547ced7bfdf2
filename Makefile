# Every target first creates the environment .venv if it is missing; nothing is installed outside of it.
.DEFAULT_GOAL := help
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOG := build/install.log
# pip writes to the log; a failure shows its end and its name. $(1): the extra of pyproject.toml, such as test.
INSTALL = { mkdir -p build && $(RUN) -m pip install -e ".[$(1)]" >$(LOG) 2>&1 || { tail -n 3 $(LOG) >&2; \
	echo "csgn: the installation failed; see $(LOG)" >&2; exit 1; }; }
# The first interpreter that is new enough; `make PYTHON=/path/to/python3.12 ...` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help install demo first-result text-to-image seeds ablation ablation-clips ablation-variants inside answers paper results method-figure docs test test-browser test-notebooks lint lab tiny-clip bench-retrieval bench-train bench-gpu clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## +' '{ printf "  make %-18s %s\n", $$1, $$2 }'

install: $(STAMP)  ## create .venv and install the packages (every target does this first)

demo: $(STAMP)  ## train and score CSGN on the embedded benchmark; writes reports/demo/index.html
	@$(RUN) -m csgn_lib demo

test: $(STAMP)  ## check the style and run the tests
	@$(RUN) -m ruff check csgn_lib benchmarks tests notebooks docs/tools
	@$(RUN) -m ruff format --check csgn_lib benchmarks tests docs/tools
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist worksteal

# CHROMIUM=/path/to/chromium, or one on PATH, or else playwright's own (downloaded once).
CHROMIUM ?= $(shell for name in chromium chromium-browser google-chrome chrome; do command -v $$name && break; done)
test-browser: $(STAMP)  ## test the notebook panels in JupyterLab with headless Chromium: some minutes
	@$(RUN) -c 'import playwright' 2>/dev/null || { echo "installing playwright into $(VENV)"; $(call INSTALL,browser); }
	@test -n "$(CHROMIUM)" || $(RUN) -m playwright install chromium
	@CHROMIUM="$(CHROMIUM)" OMP_NUM_THREADS=1 $(RUN) -m pytest -q tests/browser/test_*.py

test-notebooks: $(STAMP)  ## long tests: notebooks without clothes labels or cameras, commands of the guide
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 -m wide tests/test_notebooks.py tests/test_student_page.py

lint: $(STAMP)  ## format the code and apply ruff's fixes
	@$(RUN) -m ruff check --fix csgn_lib benchmarks tests notebooks docs/tools
	@$(RUN) -m ruff format csgn_lib benchmarks tests docs/tools

lab: $(STAMP)  ## open the notebooks in JupyterLab, on this machine only, with a token
	@$(RUN) -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
	  --LabApp.app_settings_dir="$(CURDIR)/csgn_lib/panels/jupyterlab"

# The folder of a step's run in the last demo.
DEMO_RUN = $$($(RUN) -c 'import json; print(json.load(open("reports/demo/runs.json"))["$(1)"])')
first-result: demo  ## run the demo and keep its table, pictures and times in reports/first-result
	@mkdir -p reports/first-result
	@cp reports/demo/results.csv reports/demo/table.txt reports/demo/seconds.json reports/first-result/
	@cp "$(call DEMO_RUN,first result)/figures/people.png" "$(call DEMO_RUN,evaluation)/figures/strip-worst.png" reports/first-result/

text-to-image: demo  ## search the gallery with captions, with the demo's CSGN; writes reports/retrieval/text-to-image
	@$(RUN) -m csgn_lib evaluate "$(call DEMO_RUN,CSGN)" synthetic data/synthetic-0 \
	  --captions data/synthetic-0/attributes.csv --out build/text-to-image
	@mkdir -p reports/retrieval/text-to-image && cp build/text-to-image/words.csv reports/retrieval/text-to-image/

seeds: $(STAMP)  ## the methods with five seeds in five worlds; writes reports/seeds (times: docs/reproduction.md)
	@$(RUN) -m csgn_lib run 40_ablation_sweep -p grid reports/seeds/grid.yaml -p out reports/seeds --keep-answer "make seeds"

# Each folder of reports/ablation contains a sweep's grid; 40_ablation_sweep runs it, 41_ablation_tables reads its records.
TABLES = $(RUN) -m csgn_lib run 41_ablation_tables -p grid reports/ablation/$(1) -p out reports/ablation/$(2) \
	  -p baseline '$(3)' -p descriptors '$(or $(4),$(ALL))'
SWEEP = $(RUN) -m csgn_lib run 40_ablation_sweep -p grid reports/ablation/$(1)/grid.yaml -p out reports/ablation/$(1) && \
	  $(call TABLES,$(1),$(1),$(2))
ALL := ["plain", "clothing removed", "person only"]
, := ,

ablation: ablation-clips $(STAMP)  ## contribution of each part; resumable; writes reports/ablation
	@$(call SWEEP,main,identity + triplet)

ablation-variants: $(STAMP)  ## other variants of each part, three runs each; resumable
	@$(call SWEEP,variants,CSGN)
	@$(call TABLES,variants,variants/over-words,CSGN$(,) clothing removed,["clothing removed"])

ablation-clips: $(STAMP)  ## three methods, three seeds in three worlds, with each of the two small CLIPs; resumable
	@$(call SWEEP,clips/first,identity + triplet)
	@$(call SWEEP,clips/second,identity + triplet)
	@for clip in first second; do $(call TABLES,clips/$$clip,clips/$$clip/over-clip-reid,CLIP-ReID) && \
	  $(call TABLES,clips/$$clip,clips/$$clip/over-words,identity + triplet$(,) clothing removed) || exit 1; done

# Analysis of three trained models in one world: figures, their data and the notebooks' answers.
INSIDE := {"identity + triplet": "reports/runs/inside-identity-triplet", "CLIP-ReID": "reports/runs/inside-clip-reid", "CSGN": "reports/runs/inside-csgn"}
LOOK = $(RUN) -m csgn_lib run $(1) $(2) --run-dir reports/runs/inside-$(1)
inside: $(STAMP)  ## analyse three models with notebooks 10, 30, 31 and 32; writes reports/inside
	@for m in identity-triplet clip-reid csgn; do $(RUN) -m csgn_lib train --preset demo+$$m --run-dir reports/runs/inside-$$m || exit 1; done
	@$(call LOOK,10_colour_bias,-p run_dir reports/runs/inside-csgn)
	@$(call LOOK,30_embedding_map,-p runs '$(INSIDE)')
	@$(call LOOK,31_clothes_leakage,-p runs '$(INSIDE)')
	@$(call LOOK,32_attention,-p runs '$(INSIDE)')
	@$(RUN) -m csgn_lib.runs reports/inside reports/runs/inside-[0-9]*

answers: $(STAMP)  ## run every notebook and write its answer into its first cell
	@for n in 00_first_result 01_dataset_integrity 02_dataset_portrait 10_colour_bias 11_stage1_prompts 12_train \
	  20_evaluate 21_search 22_failures 30_embedding_map 31_clothes_leakage 32_attention 41_ablation_tables \
	  50_explore 51_training 90_paper_figures; do $(RUN) -m csgn_lib run $$n --keep-answer "csgn run $$n" || exit 1; done

# The PDF contains no date and no identifier, so the same records and LaTeX version give an identical file.
paper: $(STAMP)  ## make the figures, tables and numbers of reports/paper/paper.tex; its PDF if LaTeX is installed
	@find reports/seeds reports/ablation -name runs-records.csv | grep -q . || \
	  echo "no sweep is recorded, so the paper has the first result alone; make seeds and make ablation record sweeps"
	@$(RUN) -m csgn_lib run 90_paper_figures -p out reports/paper
	@mkdir -p reports/cache/paper
	@cd reports/paper && export SOURCE_DATE_EPOCH=0 FORCE_SOURCE_DATE=1 out=../cache/paper && \
	if command -v latexmk >/dev/null; then latexmk -pdf -silent -halt-on-error -outdir=$$out paper.tex >/dev/null; \
	elif command -v pdflatex >/dev/null; then for pass in 1 2; do \
	  pdflatex -interaction=batchmode -halt-on-error -output-directory=$$out paper.tex >/dev/null || break; done; test $$pass = 2; \
	elif command -v tectonic >/dev/null; then tectonic -o $$out paper.tex; \
	else echo "reports/paper/paper.tex was not compiled: latexmk, pdflatex or tectonic is not installed"; exit 0; fi && \
	cp $$out/paper.pdf paper.pdf && echo "reports/paper/paper.pdf" || { \
	  echo "csgn: reports/paper/paper.tex does not compile; see reports/cache/paper/paper.log" >&2; exit 1; }

results: $(STAMP)  ## write the recorded numbers into README and docs/, from the templates in docs/templates
	@$(RUN) docs/tools/results.py

method-figure: $(STAMP)  ## draw docs/images/method.svg
	@$(RUN) docs/tools/method_figure.py

docs: $(STAMP)  ## build the documentation site: build/site/index.html
	@$(RUN) -c 'import material, mkdocstrings' 2>/dev/null || { echo "installing mkdocs into $(VENV)"; $(call INSTALL,docs); }
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict && \
	  echo "build/site/index.html (with search: python3 -m http.server --directory build/site)"

tiny-clip: $(STAMP)  ## train the embedded CLIP and ResNet again (SEED=1: the second pair); rendering is resumable
	@OMP_NUM_THREADS=1 $(RUN) -m csgn_lib.synthetic.pretraining --seed $(or $(SEED),0)

bench-retrieval: $(STAMP)  ## time the evaluation on large galleries; PART=search: one part, into reports/retrieval/PART
	@$(RUN) -m benchmarks.retrieval $(if $(PART),--only $(PART) --out reports/retrieval/$(PART))

bench-train: $(STAMP)  ## time a training step at full size; CLIP_REID=/path/to/CLIP-ReID compares with its code
	@$(RUN) -m benchmarks.training $(WITH)

bench-gpu: $(STAMP)  ## everything that one GPU has to tell, in ten minutes, resumable; WITH=--rehearse tries it on a CPU
	@$(RUN) -m benchmarks.training_gpu $(WITH)

clean:  ## remove .venv and caches; data and reports stay
	rm -rf $(VENV) .ruff_cache .hypothesis *.egg-info build reports/cache
	find csgn_lib benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# A complete environment is reused without the network (--no-index); otherwise pip downloads packages.
$(STAMP): pyproject.toml
	@$(RUN) -m pip --version >/dev/null 2>&1 || { \
	  test -n "$(PYTHON)" || { echo "csgn: Python 3.11 or newer was not found; install it, or: make PYTHON=/path/to/python" >&2; exit 1; }; \
	  echo "creating $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	    echo "csgn: python -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
	@$(RUN) -m pip install --quiet --no-index --no-build-isolation -e ".[test]" >/dev/null 2>&1 \
	  || { echo "installing packages into $(VENV): about 3 GB, some minutes; log: $(LOG)"; $(call INSTALL,test); }
	@touch $@

.PHONY: world-check world-sheets bench-world world-rows text-study vocabulary-study
world-check: $(STAMP)  ## check 1,000 rendered people for bare skin, holes, floating and cropped parts: some minutes
	@OMP_NUM_THREADS=1 $(RUN) -m csgn_lib.synthetic.quality --people 1000

world-sheets: $(STAMP)  ## make contact sheets of the embedded benchmark; writes reports/world
	@OMP_NUM_THREADS=1 $(RUN) -m csgn_lib.synthetic.sheets reports/world

bench-world: $(STAMP)  ## time the rendering; WORLD_PROTOTYPE=/path compares with a prototype
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/world.py

world-rows: $(STAMP)  ## simple rows and methods on validation people of the embedded benchmark (DRAWS=5); resumable; writes reports/world
	@OMP_NUM_THREADS=1 $(RUN) -m benchmarks.world_rows --draws $(or $(DRAWS),5)

text-study: $(STAMP)  ## what the text loss adds under other conditions, on validation people; resumable; writes reports/text-study
	@OMP_NUM_THREADS=1 $(RUN) -m benchmarks.text_study --draws $(or $(DRAWS),3)

vocabulary-study: $(STAMP)  ## subspaces of other phrases and pictures, with runs of ablation-clips and text-study; writes reports/vocabulary-study
	@OMP_NUM_THREADS=1 $(RUN) -m benchmarks.vocabulary_study
