# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How figures look, and a page that holds them: shared by games, judges and the demo."""
