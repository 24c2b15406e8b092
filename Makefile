# OncoTwin. `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3.11
ENGINE ?= podman
OWN_BASE := localhost/oncotwin-base:bookworm
BASE ?= $(OWN_BASE)
VERSION := $(shell sed -n 's/^  version: //p' app.yaml)
IMAGE ?= localhost/oncotwin:$(VERSION)
SERVICES_IMAGE ?= localhost/oncotwin-services:$(VERSION)
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
# As in the container: the C library keeps what tensors leave.
demo label gateway real train: export GLIBC_TUNABLES := $(shell sed -n 's/^ARG KEEP_MEMORY=//p' Dockerfile)
comma := ,

.PHONY: gateway sbom audit lock wheelhouse image-base image-orthanc image image-services image-gpu image-run image-sizes image-check image-check-all
.PHONY: help demo label test test-all lint real train clean distclean system-tools

help:
	@echo "make demo      a virtual two-visit patient as DICOM, through the whole application, on CPU"
	@echo "make label STUDIES=FOLDER   MONAI Label server on this machine, for 3D Slicer and OHIF"
	@echo "make test      linters, types, room borders and tests"
	@echo "make test-all  the same with the slow suite"
	@echo "make real      the application on real cases of yours: CASES=FOLDER (docs/real-cases.md)"
	@echo "make gateway   the PACS gateway, settings by CONFIG=gateway.yaml"
	@echo "make image     the MONAI Application Package; make image-run IN=… OUT=… runs it"
	@echo "make audit     known vulnerabilities of what the locks pin"
	@echo "make train     train the segmentation network on simulated patients (CPU preset)"

# The product's pins; holoscan looks for CUDA's runtime beside its own libraries.
$(VENV)/.product: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	site=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])") && \
	  ln -sf ../../nvidia/cu13/lib/libcudart.so.13 $$site/holoscan/lib/libcudart.so.13
	touch $@

# MONAI Label asks for packages that hold numpy below 2 and that its server never calls, so it goes in without them.
$(VENV)/.label: requirements-label.txt $(VENV)/.product
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-label.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps monailabel==0.8.5
	touch $@

$(VENV)/.gateway: requirements-gateway.txt $(VENV)/.product
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-gateway.txt
	touch $@

$(VENV)/.development: requirements-dev.txt $(VENV)/.product $(VENV)/.label $(VENV)/.gateway
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Machine code of the growth solver for this processor, kept beside its source.
$(VENV)/.kernels: twin/backends/kernels.py twin/backends/gram.py $(VENV)/.product
	$(BIN)/python -m twin.compile_kernels
	touch $@

demo: $(VENV)/.kernels
	rm -rf $(DEMO)
	$(BIN)/python -m training.phantom --preset demo -o $(DEMO)/patient
	$(BIN)/python -m app -i $(DEMO)/patient/dicom -o $(DEMO)/results
	$(BIN)/python -m training.compare --truth $(DEMO)/patient/truth.json --result $(DEMO)/results/result.json

# STUDIES: a folder of DICOM studies, or the DICOMweb URL of a PACS. More options: python -m monailabel_app --help
label: $(VENV)/.label $(VENV)/.kernels
	@test -n "$(STUDIES)" || { echo "Say where the studies are: make label STUDIES=FOLDER_OR_URL"; exit 2; }
	$(BIN)/python -m monailabel_app --studies "$(STUDIES)"

# CONFIG: settings; deploy/gateway.yaml takes C-STORE on loopback and keeps results in gateway-work.
gateway: $(VENV)/.gateway $(VENV)/.kernels
	$(BIN)/python -m gateway $(if $(CONFIG),--config "$(CONFIG)") $(if $(SCHEDULER),--scheduler "$(SCHEDULER)")

# Validators and archives that the tests call, and the compiler that runs the CUDA source on the CPU; only Debian and Ubuntu are
# known here.
TOOLS := g++ dicom3tools dcmtk pixelmed-apps default-jre-headless poppler-utils orthanc orthanc-dicomweb chromium openssl postgresql
system-tools:
	@command -v g++ >/dev/null && command -v dciodvfy >/dev/null && command -v dsrdump >/dev/null && command -v pdftoppm >/dev/null \
	  && command -v java >/dev/null && test -f /usr/share/java/pixelmed.jar && command -v Orthanc >/dev/null \
	  && test -f /usr/share/orthanc/plugins/libOrthancDicomWeb.so && command -v chromium >/dev/null && command -v openssl >/dev/null && test -d /usr/lib/postgresql || \
	  { test "$$(id -u)" = 0 || { echo "Install $(TOOLS), then run make test again."; exit 1; }; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $(TOOLS); }

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One worker a core. Idle OpenMP threads sleep instead of spinning: the workers share the cores.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(shell nproc) --dist loadfile

test: $(VENV)/.development $(VENV)/.kernels system-tools lint
	$(PYTEST)

test-all: $(VENV)/.development $(VENV)/.kernels system-tools lint
	$(PYTEST) -m "not image"

real: $(VENV)/.development
	@test -n "$(CASES)" || { echo "Say where the cases are: make real CASES=FOLDER (docs/real-cases.md)"; exit 2; }
	$(BIN)/python -m benchmarks.real_cases --cases "$(CASES)" -o out/real

train: $(VENV)/.product
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-train.txt
	$(BIN)/python -m training.train --preset cpu --out build/train $(if $(wildcard build/train/checkpoint.pt),--resume)

# The locks are kept in the repository; make lock after a change of requirements*.txt. The first needs an index with torch's
# build for the CPU (docs/deployment.md), the second the public one, which has CUDA's.
lock: $(VENV)/.product
	$(BIN)/python -m container.lock requirements.txt -o requirements.lock
	PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= $(BIN)/python -m container.lock requirements.txt --like requirements.lock \
	  -o requirements-cuda.lock
	$(BIN)/python -m container.lock requirements-gateway.txt requirements-label.txt --base requirements.lock \
	  --alone monailabel==0.8.5 --source timeloop -o requirements-services.lock

LOCK ?= requirements.lock
# Of torch's builds for the CPU and for CUDA, pip would take the former whatever the lock's hash: one at a time.
wheelhouse: $(VENV)/.product
	rm -f build/wheelhouse/torch-*
	$(BIN)/python -m pip download --quiet --require-hashes --no-deps -r $(LOCK) -d build/wheelhouse

# An image of Debian bookworm from this machine's own package sources, as root: packages, tag, options of the import.
define debian_image
	mkdir -p build
	mmdebstrap --quiet --variant=essential --include=$(1) \
	  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
	  --customize-hook='rm -rf "$$1"/etc/apt/sources.list "$$1"/etc/apt/sources.list.d/* "$$1"/var/lib/apt/lists/*' \
	  bookworm build/debian.tar $$(ls /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null)
	$(ENGINE) import $(3) build/debian.tar $(2) >/dev/null
	rm build/debian.tar
endef

# Python 3.11 and nothing else.
image-base:
	$(call debian_image,python3$(comma)python3-venv$(comma)libstdc++6$(comma)libgomp1,$(BASE))

# Debian's Orthanc, for the test of the compose file; a hospital takes a maintained image.
image-orthanc:
	$(call debian_image,orthanc$(comma)orthanc-dicomweb,localhost/orthanc:bookworm,\
	  --change 'ENTRYPOINT ["/usr/sbin/Orthanc"$(comma) "/etc/orthanc/orthanc.json"]')

# The base of ours is made where it is missing; another one has to be there.
define base_image
	@$(ENGINE) image inspect $(BASE) >/dev/null 2>&1 || { test "$(BASE)" = "$(OWN_BASE)" && $(MAKE) image-base; } || \
	  { echo "The image $(BASE) is not here; pull it first: $(ENGINE) pull $(BASE)"; exit 2; }
endef

# podman would write every step to the disk as a layer of its own, two gigabytes each.
BUILD = $(ENGINE) build --network none $(if $(filter podman,$(ENGINE)),--layers=false) --build-arg BASE=$(BASE) \
  --build-arg VERSION=$(VERSION) --build-arg LOCK=$(LOCK)
image: wheelhouse
	$(base_image)
	$(BUILD) $(BUILD_OPTIONS) -t $(IMAGE) .

# The same application with CUDA's torch, for hosts with a GPU; BASE may name a CUDA runtime with Python 3.11.
image-gpu:
	$(MAKE) image LOCK=requirements-cuda.lock IMAGE=$(IMAGE)-gpu \
	  BUILD_OPTIONS='--build-arg UNUSED="perf-analyzer pandas scikit-learn joblib"'

# Gateway and MONAI Label server, for deploy/compose and clusters.
image-services: wheelhouse
	$(BIN)/python -m pip download --quiet --require-hashes --no-deps --no-build-isolation -r requirements-services.lock \
	  -d build/wheelhouse
	$(base_image)
	$(BUILD) --build-arg SERVICES_LOCK=requirements-services.lock --target services -t $(SERVICES_IMAGE) .

# Never as root: root's own folders are handed to uid 1000.
image-run:
	@test -d "$(IN)" -a -n "$(OUT)" || { echo "make image-run IN=FOLDER_OF_DICOM OUT=RESULTS"; exit 2; }
	@mkdir -p "$(OUT)"
	@user=$$(id -u):$$(id -g); if [ "$$(id -u)" = 0 ]; then user=1000:1000; chown 1000:1000 "$(OUT)"; fi; \
	$(ENGINE) run --rm --network none --read-only --tmpfs /tmp:rw,size=512m --user $$user --cap-drop all \
	  --security-opt no-new-privileges --memory 8g --pids-limit 512 \
	  -v "$(abspath $(IN))":/var/holoscan/input:ro -v "$(abspath $(OUT))":/var/holoscan/output:rw $(IMAGE)

image-sizes:
	@$(ENGINE) run --rm --network none --entrypoint python $(IMAGE) -m container.sizes

# What the image is made of, with licences: build/sbom.cdx.json and build/licences.csv.
sbom: $(VENV)/.development
	$(BIN)/python -m container.sbom -o build

# Known vulnerabilities of what the lock pins; 75 where no vulnerability service answers. AUDIT_OPTIONS=--may-be-offline
audit: $(VENV)/.development
	$(BIN)/python -m container.audit requirements.lock requirements-services.lock $(AUDIT_OPTIONS)

# image-check: minutes, as CI does it; image-check-all: whole runs too, and the services.
image-check: $(VENV)/.development
	$(BIN)/python -m pytest -m "image and not slow" tests/container

image-check-all: $(VENV)/.development
	$(BIN)/python -m pytest -m image

clean:
	rm -rf $(DEMO)

# Everything that was computed too: trained weights, rows of benchmarks, wheels.
distclean: clean
	rm -rf out build
