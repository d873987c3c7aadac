"""MLflow: runs, registered versions, and which of them is champion."""
