# make quickstart | quickstart-detection | quickstart-segmentation | test | lint | smoke. Each makes the environment in .venv first when it is missing.
# PYTHON=python3.11 make test chooses the interpreter.
.PHONY: help env lite quickstart quickstart-detection quickstart-segmentation test lint smoke smoke-newest clean

NEWEST := 2.10.0
RUN := .venv/bin/python

help:
	@echo "make env           the environment in .venv (made once; PYTHON=python3.11 chooses the interpreter)"
	@echo "make lite          MindSpore Lite with a Python 3.7 in .venv-lite (made once; PYTHON37=... chooses the interpreter)"
	@echo "make quickstart    train, evaluate, export and verify a small ACmix network: about 3 minutes on a CPU"
	@echo "make quickstart-detection  the same with a RetinaNet that finds coloured shapes: about five minutes"
	@echo "make quickstart-segmentation  the same with a Semantic FPN that tells their pixels apart: about five minutes"
	@echo "make test          the whole test suite"
	@echo "make lint          style"
	@echo "make smoke         one forward, train step and export"
	@echo "make smoke-newest  the same with MindSpore $(NEWEST), in .venv-$(NEWEST); make smoke-2.7.2 with that version"
	@echo "make clean         remove build and test leftovers; environments and runs stay"

env:
	@bash scripts/make_env.sh

lite:
	@bash scripts/make_lite.sh

quickstart: env
	$(RUN) scripts/quickstart.py

quickstart-detection: env
	$(RUN) scripts/quickstart_detection.py

quickstart-segmentation: env
	$(RUN) scripts/quickstart_segmentation.py

test: env
	$(RUN) -m pytest -n 2 --dist loadfile

lint: env
	$(RUN) -m ruff check .

smoke: env
	$(RUN) -m pytest -m smoke -s tests/test_smoke.py

smoke-newest: smoke-$(NEWEST)

# smoke-2.7.2, smoke-2.9.0, ...: another MindSpore in an environment of its own
smoke-%:
	@VENV=.venv-$* MINDSPORE=$* EXTRAS=dev bash scripts/make_env.sh
	.venv-$*/bin/python -m pytest -m smoke -s tests/test_smoke.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache rank_* kernel_meta
	find acmix_ms models benchmarks scripts tests -name __pycache__ -exec rm -rf {} +
