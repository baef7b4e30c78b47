# make demo   everything for real: data, embeddings, three stages, the any-to-any matrix, a conversation
# make test   the tests, every notebook among them
# make test-long   what takes longer: learning real samples and asking them back
# make coverage   the tests once more, and which lines of the library none of them runs
# make lab    JupyterLab at the chat notebook, with the newest run
# make app    the chat as a page of its own (Voila); RUN, PORT and HOST may be named
# make gradio the same as a Gradio page
# make chat-check   the shipped run's any-to-any matrix, measured anew
# make bench  a training step beside the bare libraries and with optimisations off, where time goes, resuming; PROFILE
# make gpu-check    a CUDA card at full size: training steps, a chat turn, memory, beside the bare libraries
# make tiny   trains the frozen tiny models anew (hours)
# make small-data   the small world of real things as a dataset: fetches 870 MB of packages once; see docs/small_world.md

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch>=2.11,<2.14
CPU_TORCH := https://download.pytorch.org/whl/cpu

.PHONY: demo test test-long coverage lab app gradio chat-check bench gpu-check tiny small-data lint readme address browser clean

demo: $(VENV)/installed
	$(BIN)/anytoany demo

# Two processes of one thread each take half the time of one with two; what both need is fetched before.
test: $(VENV)/installed browser
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/anytoany fetch
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/installed
	$(BIN)/python -m pytest -m long

coverage: $(VENV)/installed browser
	$(BIN)/anytoany fetch
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine -q && $(BIN)/coverage report

# In a container one is root as a rule, which Jupyter wants to be told.
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

lab: $(VENV)/installed
	$(BIN)/anytoany fetch
	$(BIN)/jupyter lab notebooks/07_chat.ipynb $(AS_ROOT)

# Both are for this machine alone unless HOST says otherwise, and talk to the newest run unless RUN names one.
SERVED = $(if $(RUN),--run $(RUN)) $(if $(PORT),--port $(PORT)) $(if $(HOST),--host $(HOST))

app: $(VENV)/installed
	$(BIN)/pip install -q -e ".[app]"
	$(BIN)/anytoany app $(SERVED)

gradio: $(VENV)/installed
	$(BIN)/pip install -q -e ".[gradio]"
	$(BIN)/anytoany gradio $(SERVED)

tiny: $(VENV)/installed
	set -e; for n in notebooks/tiny_*.ipynb; do $(BIN)/papermill --cwd notebooks $$n out/$$(basename $$n); done

small-data: $(VENV)/installed
	$(BIN)/pip install -q -e ".[small]"
	$(BIN)/python -m anytoany_lib.smallworld.dataset data/small

# Measures the shipped run anew, on test rows drawn anew, and compares with what its metrics.json says.
chat-check: $(VENV)/installed
	$(BIN)/anytoany fetch --profile tiny
	$(BIN)/python -m anytoany_lib.toyworld.dataset data/toy-check --media 0 --conversations 0 --per-text-task 96
	$(BIN)/anytoany evaluate --run ckpt/tiny/run --data data/toy-check --per-task 12 --bound 2 --check

# It times what it runs: let nothing else run beside it.
bench: $(VENV)/installed
	$(BIN)/anytoany fetch --profile $(or $(PROFILE),tiny)
	$(BIN)/python bench/training.py --profile $(or $(PROFILE),tiny)

# Random weights stand in for models that are not there; PROFILE=tiny runs on a CPU.
gpu-check: $(VENV)/installed
	$(BIN)/python bench/gpu.py --profile $(or $(PROFILE),nextgpt-7b)

lint: $(VENV)/installed
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

readme: $(VENV)/installed
	$(BIN)/python docs/make_readme.py
	$(BIN)/python docs/make_ablations.py
	$(BIN)/python docs/make_architecture.py
	$(BIN)/python docs/make_environment.py

# make address URL=https://github.com/OWNER/NAME: badges, Colab cells and install lines get the repository's address, which
# stands in pyproject.toml alone; URL=none takes it away; without URL they are written anew.
address: $(VENV)/installed
	$(BIN)/python docs/make_address.py $(URL)

# Without an NVIDIA card the CPU build of torch saves gigabytes; pip's own index has only the CUDA one for Linux.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@if ! command -v nvidia-smi >/dev/null && \
	  $(BIN)/python -c "import urllib.request as u; u.urlopen('$(CPU_TORCH)/torch/', timeout=5)" 2>/dev/null; then \
	  $(BIN)/pip install -q --index-url $(CPU_TORCH) "$(TORCH)"; fi
	$(BIN)/pip install -q -e ".[test]"
	touch $@

# The browser test drives a real Chromium; without one it is skipped and says so.
browser:
	@if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  (apt-get update -qq && apt-get install -y -qq chromium fonts-noto-color-emoji) >/dev/null || \
	  echo "chromium could not be installed: the browser test will be skipped"; fi

clean:
	rm -rf $(VENV) out
