//go:build !race

package seccomp

const raceDetector = false
