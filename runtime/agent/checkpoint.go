package agent

import (
	"context"
	"os"
)

// CheckpointRequest says what becomes of the container that is saved.
type CheckpointRequest struct {
	LeaveRunning bool `json:"leaveRunning,omitempty"` // it goes on; else it stands still, to be ended
}

// Checkpointing is a Handler that saves its container's state to a file that is empty. The
// error names what cannot be saved: the container goes on then as if nothing had been.
type Checkpointing interface {
	Checkpoint(ctx context.Context, r *CheckpointRequest, to *os.File) error
}
