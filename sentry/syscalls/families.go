package syscalls

// families are the rows of all files. (A function, so that handlers may look at
// the Table.)
func families() [][]row {
	return [][]row{
		processCalls(), credCalls(), signalCalls(), futexCalls(), timeCalls(), memoryCalls(), miscCalls(), schedCalls(), limitCalls(),
		openCalls(), rwCalls(), statCalls(), treeCalls(), fcntlCalls(), pollCalls(), pidfdCalls(),
		fdMakerCalls(), spliceCalls(), xattrCalls(), socketCalls(), watchCalls(), namespaceCalls(), mountCalls(), handleCalls(), sysvCalls(), uringCalls(), aioCalls(), ptraceCalls(), seccompCalls(),
		mqueueCalls(), pageCalls(), schedAttrCalls(),
		keyCalls(),
	}
}
