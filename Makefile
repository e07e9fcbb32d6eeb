# lmcache-appliance: one plain GNU Makefile. `make help` lists the targets.
#
# A module is a folder; its sources become one archive. MODULES is in layer order: a module may include only modules to
# its left, and its unit tests link only those archives, so a wrong dependency fails at link time.
#
# Libraries are looked up while this file is read. `run` and `test` therefore install what is missing first and then start
# a second make, which finds it.

BUILD   ?= build
PYTHON  ?= /usr/bin/python3
JOBS    ?= $(shell nproc 2>/dev/null || echo 2)
SHELL   := /bin/bash
ifeq ($(origin CC),default)
CC      := gcc
endif
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(JOBS)
endif
MAKEFLAGS += --no-print-directory
# `make V=1` shows the commands.
say      = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2) &&)
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all

MODULES := daemon/base daemon/conf numa transport/wire transport/pickle transport/kv transport/shm transport/cuda transport/zmq \
           transport/disk daemon/store daemon/seg daemon/l2 daemon/tier daemon/http daemon/core tools

PKGS       := libzmq hwloc libmicrohttpd jansson libcrypto libcurl liburing hiredis blkid
TEST_PKGS  := cmocka
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
TEST_LIBS  := $(shell pkg-config --libs $(TEST_PKGS) 2>/dev/null)

WERROR  ?= -Werror
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wundef -Wvla $(WERROR)
OPT     ?= -O2 -g
SAN     ?=
CFLAGS  ?= $(OPT)
# gcc's flow analysis is confused by the sanitizers' own code; the plain build has these warnings.
WARN    += $(if $(SAN),$(addprefix -Wno-,maybe-uninitialized format-truncation stringop-overflow array-bounds nonnull))
# Fortified string functions need optimisation and hide accesses from the sanitizers.
HARDEN  := $(if $(SAN),,$(if $(filter -O1 -O2 -O3 -Os,$(CFLAGS)),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)) -fPIE
LDHARD  := -pie -Wl,-z,relro,-z,now -Wl,--as-needed
LANG_CFLAGS = -std=gnu17 -D_GNU_SOURCE -I. -I$(BUILD) $(BLAKE3_CFLAGS) $(PKG_CFLAGS)
ALL_CFLAGS  = $(CFLAGS) $(SAN) $(WARN) $(HARDEN) -fno-strict-aliasing -fstack-protector-strong $(LANG_CFLAGS) -pthread -MMD -MP
ALL_LDFLAGS = $(LDFLAGS) $(SAN) $(LDHARD) -pthread
LIBS        = $(PKG_LIBS) $(BLAKE3_LIBS) -lm -lrt

# Parsers of foreign bytes are also held to -Wconversion.
CONVERSION_MODULES := transport/wire transport/pickle daemon/seg

# ---- BLAKE3: the system's library, or the official C sources from Debian's librust-blake3-dev (docs/decisions/0002) ---
ifeq ($(shell pkg-config --exists libblake3 2>/dev/null && echo yes),yes)
BLAKE3_CFLAGS := $(shell pkg-config --cflags libblake3)
BLAKE3_LIBS   := $(shell pkg-config --libs libblake3)
else
BLAKE3_DIR := build/third/blake3
BLAKE3_HDR := $(BLAKE3_DIR)/blake3.h
BLAKE3_LIB := $(BUILD)/third/libblake3.a
BLAKE3_CFLAGS := -isystem $(BLAKE3_DIR)
BLAKE3_SRC := blake3.c blake3_dispatch.c blake3_portable.c
ifeq ($(shell uname -m),x86_64)
BLAKE3_SRC += blake3_sse2_x86-64_unix.S blake3_sse41_x86-64_unix.S blake3_avx2_x86-64_unix.S blake3_avx512_x86-64_unix.S
else ifeq ($(shell uname -m),aarch64)
BLAKE3_SRC += blake3_neon.c
endif
BLAKE3_OBJ := $(addprefix $(BUILD)/third/,$(addsuffix .o,$(BLAKE3_SRC)))

$(BLAKE3_HDR):
	@tools/blake3.sh $(BLAKE3_DIR)

$(BUILD)/third/%.o: $(BLAKE3_HDR)
	@mkdir -p $(@D)
	$(call say,CC,$@)$(CC) -O3 -g -fPIE -c $(BLAKE3_DIR)/$* -o $@

$(BLAKE3_LIB): $(BLAKE3_OBJ)
	$(call say,AR,$@)$(AR) rcs $@ $^
endif

# ---- modules -----------------------------------------------------------------------------------------------------
lib_of   = $(BUILD)/lib/$(subst /,_,$(1)).a
objs_of  = $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(MAINS),$(wildcard $(1)/*.c)))
# Archives a module may link: itself and everything to its left, most dependent first.
upto     = $(if $(filter $(1),$(firstword $(2))),$(1),$(firstword $(2)) $(call upto,$(1),$(wordlist 2,99,$(2))))
reverse  = $(if $(1),$(call reverse,$(wordlist 2,99,$(1))) $(firstword $(1)))
libs_for = $(foreach m,$(call reverse,$(call upto,$(1),$(MODULES))),$(call lib_of,$(m))) $(BLAKE3_LIB)

MAINS := tools/main.c

# Rewritten when the compiler or its flags change, so that everything is compiled again.
FLAGS_FILE := $(BUILD)/compile-flags
$(FLAGS_FILE): force
	@mkdir -p $(@D)
	@echo '$(CC) $(ALL_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS)' >$@

$(BUILD)/%.o: %.c $(FLAGS_FILE) | $(BLAKE3_HDR)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(ALL_CFLAGS) $(if $(filter $(CONVERSION_MODULES),$(patsubst %/,%,$(dir $<))),-Wconversion) -c $< -o $@

define module_rules
$(call lib_of,$(1)): $(call objs_of,$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(call say,AR,$$@)$$(AR) rcs $$@ $$^
endef
$(foreach m,$(MODULES),$(eval $(call module_rules,$(m))))

# Device code by nvcc, for all GPUs it knows: `make fatbin` makes it, `make FATBIN=1` builds it into the daemon, which then takes the PTX
# only where the driver does not take this.
NVCC    ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc) nvcc)
KERNELS := $(BUILD)/kernels.fatbin
$(KERNELS): transport/cuda/kernels.cu transport/cuda/kernel_device.h transport/cuda/kernel_abi.h
	@mkdir -p $(@D)
	$(call say,NVCC,$@)$(NVCC) -fatbin -arch=all-major -I. -o $@ $<
fatbin: $(KERNELS)
ifneq ($(FATBIN),)
$(BUILD)/transport/cuda/kernels.o: $(KERNELS)
$(BUILD)/transport/cuda/kernels.o: private LANG_CFLAGS += -DLMCA_FATBIN='"$(KERNELS)"'
endif

BIN := $(BUILD)/lmcache-appliance
$(BIN): $(BUILD)/tools/main.o $(call libs_for,tools)
	$(call say,LD,$@)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# ---- unit tests: tests/unit/<module>/<file>_test.c, one binary each, TAP output -------------------------------------
UNIT_SRC  := $(shell find tests/unit -name '*_test.c' 2>/dev/null | sort)
UNIT_BINS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(UNIT_SRC))
TEST_LIB_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/lib/*.c))

define unit_rules
$(BUILD)/tests/unit/$(1)/%_test: $(BUILD)/tests/unit/$(1)/%_test.o $(TEST_LIB_OBJ) $(call libs_for,$(1))
	$$(call say,LD,$$@)$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ $$(LIBS) $$(TEST_LIBS)
endef
$(foreach m,$(MODULES),$(eval $(call unit_rules,$(m))))

# ---- test driver: a CUDA driver without a GPU (docs/gpu-testing.md), for whatever loads libcuda.so.1 ---------------------
# One with the sanitizer of this build, and a plain one for programs without: Python.
FAKE_CUDA     := $(BUILD)/tests/fake/libcuda.so.1
FAKE_CUDA_ALL := $(FAKE_CUDA) $(BUILD)/tests/fake/plain/libcuda.so.1
FAKE_SRC      := $(wildcard tests/fake/libcuda/*.c)
FAKE_CFLAGS    = -std=gnu17 -D_GNU_SOURCE -I. $(CFLAGS) $(WARN) -fPIC -fvisibility=hidden -fno-strict-aliasing -pthread -MMD -MP
$(BUILD)/fake/%.o: %.c $(FLAGS_FILE)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(FAKE_CFLAGS) $(SAN) -c $< -o $@
$(BUILD)/fake-plain/%.o: %.c $(FLAGS_FILE)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(FAKE_CFLAGS) -c $< -o $@
$(FAKE_CUDA): $(patsubst %.c,$(BUILD)/fake/%.o,$(FAKE_SRC))
$(BUILD)/tests/fake/plain/libcuda.so.1: $(patsubst %.c,$(BUILD)/fake-plain/%.o,$(FAKE_SRC))
$(FAKE_CUDA): FAKE_SAN = $(SAN)
$(FAKE_CUDA_ALL):
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) -shared -Wl,-soname,libcuda.so.1 -Wl,-z,nodelete $(FAKE_SAN) -pthread -o $@ $^
# Its own tests load it by name and link nothing of ours.
$(BUILD)/tests/unit/fake/%_test: $(BUILD)/tests/unit/fake/%_test.o | $(FAKE_CUDA)
	$(call say,LD,$@)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) $(TEST_LIBS)
fake: $(FAKE_CUDA_ALL) ## build the test driver, a CUDA driver without a GPU: build/tests/fake/libcuda.so.1; docs/gpu-testing.md
.PHONY: fake

# make unit M=transport/wire : build and run the unit tests of one module
.PHONY: unit
unit: $(FAKE_CUDA_ALL) $(if $(M),$(filter $(BUILD)/tests/unit/$(M)/%,$(UNIT_BINS)),$(UNIT_BINS))
	@set -e; for t in $(filter %_test,$^); do echo "== $$t"; $$t; done

# ---- bench programs: tools/bench/<name>_bench.c ---------------------------------------------------------------------
BENCH_BINS := $(patsubst tools/bench/%.c,$(BUILD)/bench/%,$(wildcard tools/bench/*_bench.c))
BENCH_SH   := $(wildcard tools/bench/*.sh)
# What ours is compared with; a bench without it leaves those rows out.
CFLAGS_index_bench     := $(shell pkg-config --cflags glib-2.0 2>/dev/null)
BENCH_LIBS_index_bench := $(shell pkg-config --libs glib-2.0 2>/dev/null)
BENCH_LIBS_wire_bench := $(shell pkg-config --libs msgpackc 2>/dev/null || pkg-config --libs msgpack 2>/dev/null || \
                                 pkg-config --libs msgpack-c 2>/dev/null)
$(BUILD)/tools/bench/index_bench.o: private PKG_CFLAGS += $(CFLAGS_index_bench)
$(BUILD)/bench/%: $(BUILD)/tools/bench/%.o $(call libs_for,tools)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) $(BENCH_LIBS_$*)

# ---- generated documentation: tools/gen/<name>_doc.c prints docs/<name>.md ------------------------------------------
DOC_NAMES := $(patsubst tools/gen/%_doc.c,%,$(wildcard tools/gen/*_doc.c))
DOC_MODULE_options := daemon/conf
DOC_MODULE_l2-adapters := daemon/l2
define doc_rules
$(BUILD)/gen/$(1)_doc: $(BUILD)/tools/gen/$(1)_doc.o $(call libs_for,$(or $(DOC_MODULE_$(1)),daemon/http))
	@mkdir -p $$(@D)
	$$(call say,LD,$$@)$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ $$(LIBS)
endef
$(foreach d,$(DOC_NAMES),$(eval $(call doc_rules,$(d))))

# ---- fuzz targets: tests/fuzz/<name>_fuzz.c, built in BUILD=build-fuzz by `make fuzz` -------------------------------
FUZZ_NAMES   := $(patsubst tests/fuzz/%_fuzz.c,%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZ         ?= $(FUZZ_NAMES)
FUZZ_SECONDS ?= 60
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%_fuzz.o $(call libs_for,daemon/seg)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

# New inputs go to the build folder; a crash is kept there as crash-<name>-*.
$(addprefix fuzz-run-,$(FUZZ_NAMES)): fuzz-run-%: $(BUILD)/fuzz/%
	@mkdir -p $(BUILD)/corpus/$*
	@echo "fuzz $*: $(FUZZ_SECONDS) s, log in $(BUILD)/fuzz/$*.log"
	@$< -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
	  -artifact_prefix=$(BUILD)/crash-$*- $(BUILD)/corpus/$* $(wildcard tests/fuzz/corpus/$*) >$(BUILD)/fuzz/$*.log 2>&1 \
	  || { tail -n 60 $(BUILD)/fuzz/$*.log; echo "fuzz $*: FAILED"; exit 1; }
	@echo "fuzz $*: clean, $$(sed -n 's/^stat::number_of_executed_units: *//p' $(BUILD)/fuzz/$*.log) inputs"

# ---- what people type -----------------------------------------------------------------------------------------------
.PHONY: ptx fatbin
.PHONY: all deps run test lab run-lab gpu run-gpu bench san asan tsan fuzz lint fmt docs golden install uninstall clean help force \
        build-all build-tests run-tests run-bench $(addprefix fuzz-run-,$(FUZZ_NAMES))

all: ## build the daemon, build/lmcache-appliance (the default)
	@tools/deps.sh --check build
	@$(MAKE) $(BIN)

deps: ## install missing build and test dependencies (Debian packages; needs root or sudo)
	@tools/deps.sh build test

run: deps ## build and start the server in the foreground; ARGS="--port 6000 ..." adds or overrides
	@$(MAKE) $(BIN)
	@exec $(BIN) server --l1-size-gb 4 --eviction-policy LRU $(ARGS)

test: deps ## build and run every test that needs no special hardware; T="name ..." picks some
	@$(MAKE) run-tests

build-tests: $(BIN) $(UNIT_BINS) $(FAKE_CUDA_ALL)
run-tests: build-tests
	@BUILD=$(BUILD) LMCA_BIN=$(abspath $(BIN)) $(PYTHON) tests/run $(T)

lab: ## run the tests of the virtual lab (QEMU guests with NUMA, huge pages, NVMe); T="name ..." picks some; docs/lab.md
	@tools/deps.sh build test
	@tools/deps.sh lab || echo "lab: its packages cannot be installed here"
	@$(MAKE) run-lab
run-lab: $(BIN) $(filter $(BUILD)/tests/unit/numa/% $(BUILD)/tests/unit/transport/disk/%,$(UNIT_BINS))
	@BUILD=$(BUILD) LMCA_BIN=$(abspath $(BIN)) $(PYTHON) tests/run --lab $(T)

gpu: ## run the GPU suites on the real driver and print what the GPU does; one line where there is none; docs/gpu-testing.md
	@tools/deps.sh build test
	@$(MAKE) run-gpu
run-gpu: $(BIN) $(BUILD)/bench/gpu_bench
	@BUILD=$(BUILD) LMCA_BIN=$(abspath $(BIN)) $(PYTHON) tests/gpu/run $(ARGS)

bench: ## build and run the benchmarks; each row names its goal and the limit measured in the same run
	@tools/deps.sh build test bench
	@$(MAKE) run-bench
run-bench: $(BIN) $(BENCH_BINS)
	@rc=0; for b in $(BENCH_BINS) $(BENCH_SH); do BUILD=$(BUILD) LMCA_BIN=$(abspath $(BIN)) $$b || rc=1; done; exit $$rc

san: ## run all tests with AddressSanitizer + UBSan, then with ThreadSanitizer
	@$(MAKE) asan
	@$(MAKE) tsan

# handle_segv=2: cmocka would catch the signal and hide the report. No detect_stack_use_after_return: gcc 12 gives vectors of 64
# bytes a misaligned place on its fake stack.
SAN_OPT := -O1 -g -fno-omit-frame-pointer
asan: deps ## the first half of san, in build-asan/
	@ASAN_OPTIONS=$${ASAN_OPTIONS:-strict_string_checks=1:handle_segv=2:handle_sigfpe=2} \
	 UBSAN_OPTIONS=$${UBSAN_OPTIONS:-print_stacktrace=1} LMCA_TEST_SCALE=$${LMCA_TEST_SCALE:-4} LMCA_SANITIZER=address \
	 $(MAKE) BUILD=build-asan OPT="$(SAN_OPT)" SAN="-fsanitize=address,undefined -fno-sanitize-recover=all" run-tests
tsan: deps ## the second half of san, in build-tsan/
	@TSAN_OPTIONS=$${TSAN_OPTIONS:-suppressions=$(CURDIR)/tests/tsan.supp:second_deadlock_stack=1:halt_on_error=1} \
	 LMCA_TEST_SCALE=$${LMCA_TEST_SCALE:-4} LMCA_SANITIZER=thread \
	 $(MAKE) BUILD=build-tsan OPT="$(SAN_OPT)" SAN=-fsanitize=thread run-tests

fuzz: ## fuzz every parser of foreign bytes for FUZZ_SECONDS (60) each; FUZZ="name ..." picks some
	@tools/deps.sh build fuzz
	@$(MAKE) BUILD=build-fuzz CC=clang WERROR= OPT="-O1 -g" \
	  SAN="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all" $(addprefix fuzz-run-,$(FUZZ))

lint: ## formatting, clang-tidy, cppcheck, layer rule, sizes, headers compile alone, docs up to date
	@tools/deps.sh build test lint
	@$(MAKE) BUILD=$(BUILD) -k lint-all

fmt: ## format all C sources in place
	clang-format -i $(C_FILES) $(H_FILES) $(CU_FILES)

docs: ## write the generated pages of docs/
	@tools/deps.sh --check build
	@$(MAKE) $(addprefix doc-,$(DOC_NAMES))
$(addprefix doc-,$(DOC_NAMES)): doc-%: $(BUILD)/gen/%_doc
	@$< >docs/$*.md.new && mv docs/$*.md.new docs/$*.md

ptx: ## translate the device code anew (clang 14, no CUDA toolkit): transport/cuda/kernels_ptx.inc
	@tools/ptx.sh >transport/cuda/kernels_ptx.inc.new && mv transport/cuda/kernels_ptx.inc.new transport/cuda/kernels_ptx.inc || \
	  { cat transport/cuda/kernels_ptx.inc.new; rm -f transport/cuda/kernels_ptx.inc.new; exit 1; }

golden: ## rewrite the golden outputs of the unit tests (then review the difference)
	@LMCA_UPDATE_GOLDEN=1 $(MAKE) run-tests T="daemon/conf numa/plan_golden numa/machine_test tools/numa_golden"

PREFIX     ?= /usr/local
DESTDIR    ?=
SYSCONFDIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc,$(PREFIX)/etc)
BINDIR     := $(DESTDIR)$(PREFIX)/bin
UNITDIR    := $(DESTDIR)$(PREFIX)/lib/systemd/system
DOCDIR     := $(DESTDIR)$(PREFIX)/share/doc/lmcache-appliance
MANDIR     := $(DESTDIR)$(PREFIX)/share/man/man1
MAN_PAGES  := $(wildcard docs/man/*.1)

install: all ## install binary, `lmcache` link, sample configs, systemd unit and docs (PREFIX, DESTDIR, SYSCONFDIR)
	install -D -m 755 $(BIN) $(BINDIR)/lmcache-appliance
	@if [ -e $(BINDIR)/lmcache ] && [ "$$(readlink $(BINDIR)/lmcache)" != lmcache-appliance ]; then \
	   echo "install: $(BINDIR)/lmcache is somebody else's and stays; remove it and install again for the link"; \
	 else ln -sfn lmcache-appliance $(BINDIR)/lmcache; fi
	@if [ -e $(DESTDIR)$(SYSCONFDIR)/lmcache-appliance.conf ]; then \
	   echo "install: $(DESTDIR)$(SYSCONFDIR)/lmcache-appliance.conf stays as it is"; \
	 else install -D -m 644 config/lmcache-appliance.conf $(DESTDIR)$(SYSCONFDIR)/lmcache-appliance.conf; fi
	@for f in sysctl.d/60-lmcache-appliance.conf tmpfiles.d/lmcache-appliance.conf; do \
	   if [ -e $(DESTDIR)$(SYSCONFDIR)/$$f ]; then echo "install: $(DESTDIR)$(SYSCONFDIR)/$$f stays as it is"; \
	   else install -D -m 644 config/$$f $(DESTDIR)$(SYSCONFDIR)/$$f || exit 1; fi; done
	install -d $(UNITDIR) $(DOCDIR)
	sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@SYSCONFDIR@|$(SYSCONFDIR)|g' config/lmcache-appliance.service.in \
	  >$(UNITDIR)/lmcache-appliance.service
	install -m 644 README.md LICENSE config/lmcache-appliance.conf config/kernel-command-line.cfg $(wildcard docs/*.md) $(DOCDIR)
	$(if $(MAN_PAGES),install -d $(MANDIR) && install -m 644 $(MAN_PAGES) $(MANDIR))

uninstall: ## remove what install put there; the config files stay
	rm -f $(BINDIR)/lmcache-appliance $(UNITDIR)/lmcache-appliance.service $(addprefix $(MANDIR)/,$(notdir $(MAN_PAGES)))
	rm -rf $(DOCDIR)
	@[ "$$(readlink $(BINDIR)/lmcache)" != lmcache-appliance ] || rm -f $(BINDIR)/lmcache

clean: ## remove all build folders (the BLAKE3 sources too)
	rm -rf build build-asan build-tsan build-fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

# ---- lint -----------------------------------------------------------------------------------------------------------
C_FILES := $(sort $(shell find daemon numa transport tools tests -name '*.c' 2>/dev/null))
H_FILES := $(sort $(shell find daemon numa transport tools tests -name '*.h' 2>/dev/null))
CU_FILES := $(sort $(shell find transport -name '*.cu' 2>/dev/null))
LINTED  := $(filter-out tests/%,$(C_FILES))

.PHONY: lint-all lint-format lint-tidy lint-cppcheck lint-layers lint-size lint-headers lint-docs
lint-all: lint-format lint-tidy lint-cppcheck lint-layers lint-size lint-headers lint-docs
	@echo "lint: clean"

lint-format:
	@clang-format --dry-run -Werror $(C_FILES) $(H_FILES) $(CU_FILES)

lint-tidy: $(patsubst %.c,$(BUILD)/lint/%.tidy,$(LINTED)) $(patsubst %,$(BUILD)/lint/%.tidy,$(CU_FILES))
# Device code, as it is compiled for a GPU; no toolkit is needed for that.
$(BUILD)/lint/%.cu.tidy: %.cu .clang-tidy $(H_FILES)
	@mkdir -p $(@D)
	@clang-tidy --quiet --warnings-as-errors='*' $< -- -x cuda --cuda-device-only --cuda-gpu-arch=sm_70 -nocudainc -nocudalib -I. \
	  2>$@.err || { grep -v 'warnings* generated' $@.err; exit 1; }
	@touch $@
# why.c is where the function is that analyzer.h explains.
$(BUILD)/lint/%.tidy: %.c .clang-tidy $(H_FILES) | $(BLAKE3_HDR)
	@mkdir -p $(@D)
	@clang-tidy --quiet --warnings-as-errors='*' $< -- $(LANG_CFLAGS) \
	  $(if $(filter daemon/base/why.c,$<),,-include tools/lint/analyzer.h) 2>$@.err || { grep -v 'warnings generated\|^Suppressed' $@.err; exit 1; }
	@touch $@

lint-cppcheck:
	@cppcheck --quiet --template='{file}:{line}: {severity}: {message} [{id}]' --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -j $(JOBS) \
	  --suppress=missingIncludeSystem --suppress='*:*/third/*' -D_GNU_SOURCE -D__x86_64__ -I. $(LINTED)

lint-layers:
	@$(PYTHON) tools/lint/layers.py $(MODULES)

lint-size:
	@$(PYTHON) tools/lint/size.py $(C_FILES) $(H_FILES) $(CU_FILES)

# A template that is included several times has no guard and does not stand alone.
lint-headers: $(patsubst %.h,$(BUILD)/lint/%.alone,$(shell grep -l '^#ifndef' $(H_FILES)))
$(BUILD)/lint/%.alone: %.h $(H_FILES) | $(BLAKE3_HDR)
	@mkdir -p $(@D)
	@echo '#include "$<"' | $(CC) -fsyntax-only -Wall -Wextra -Werror $(LANG_CFLAGS) -x c - || { echo "$<: does not compile alone"; exit 1; }
	@touch $@

lint-docs: $(addprefix lint-doc-,$(DOC_NAMES))
.PHONY: $(addprefix lint-doc-,$(DOC_NAMES))
$(addprefix lint-doc-,$(DOC_NAMES)): lint-doc-%: $(BUILD)/gen/%_doc
	@$< | diff -q - docs/$*.md >/dev/null || { echo "docs/$*.md is not up to date: make docs"; exit 1; }

-include $(shell find $(BUILD) -type f -name '*.d' 2>/dev/null)
