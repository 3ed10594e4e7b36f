# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a checkpoint holds of a round, and from which checkpoints a run can go on."""
