package kvm

// Request numbers carry the direction, the size of the argument and a letter
// (include/uapi/asm-generic/ioctl.h); TestLayout holds each size against the
// structure that we pass.
const (
	dirNone  = 0
	dirWrite = 1 // user space writes the argument
	dirRead  = 2
	letter   = 0xae
)

func request(dir, nr, size uint32) uint32 { return dir<<30 | size<<16 | letter<<8 | nr }

var (
	getAPIVersion          = request(dirNone, 0x00, 0)
	createVM               = request(dirNone, 0x01, 0)
	getMSRIndexList        = request(dirRead|dirWrite, 0x02, 4)
	checkExtension         = request(dirNone, 0x03, 0)
	getVCPUMmapSize        = request(dirNone, 0x04, 0)
	getSupportedCPUID      = request(dirRead|dirWrite, 0x05, 8)
	getMSRFeatureIndexList = request(dirRead|dirWrite, 0x0a, 4)

	createVCPU          = request(dirNone, 0x41, 0)
	getDirtyLog         = request(dirWrite, 0x42, 16)
	setUserMemoryRegion = request(dirWrite, 0x46, 32)
	setTSSAddr          = request(dirNone, 0x47, 0)
	setIdentityMapAddr  = request(dirWrite, 0x48, 8)
	createIRQChip       = request(dirNone, 0x60, 0)
	irqLine             = request(dirWrite, 0x61, 8)
	getIRQChip          = request(dirRead|dirWrite, 0x62, 520)
	setIRQChip          = request(dirRead, 0x63, 520) // sic
	setGSIRouting       = request(dirWrite, 0x6a, 8)
	irqfd               = request(dirWrite, 0x76, 32)
	createPIT2          = request(dirWrite, 0x77, 64)
	ioeventfd           = request(dirWrite, 0x79, 64)
	setClock            = request(dirWrite, 0x7b, 48)
	getClock            = request(dirRead, 0x7c, 48)
	getPIT2             = request(dirRead, 0x9f, 112)
	setPIT2             = request(dirWrite, 0xa0, 112)
	enableCap           = request(dirWrite, 0xa3, 104)
	signalMSI           = request(dirWrite, 0xa5, 32)
	clearDirtyLog       = request(dirRead|dirWrite, 0xc0, 24)

	runVCPU       = request(dirNone, 0x80, 0)
	getRegs       = request(dirRead, 0x81, 144)
	setRegs       = request(dirWrite, 0x82, 144)
	getSregs      = request(dirRead, 0x83, 312)
	setSregs      = request(dirWrite, 0x84, 312)
	interrupt     = request(dirWrite, 0x86, 4)
	getMSRs       = request(dirRead|dirWrite, 0x88, 8)
	setMSRs       = request(dirWrite, 0x89, 8)
	getLAPIC      = request(dirRead, 0x8e, 1024)
	setLAPIC      = request(dirWrite, 0x8f, 1024)
	setCPUID2     = request(dirWrite, 0x90, 8)
	getCPUID2     = request(dirRead|dirWrite, 0x91, 8)
	getMPState    = request(dirRead, 0x98, 4)
	setMPState    = request(dirWrite, 0x99, 4)
	nmi           = request(dirNone, 0x9a, 0)
	setGuestDebug = request(dirWrite, 0x9b, 72)
	getVCPUEvents = request(dirRead, 0x9f, 64)
	setVCPUEvents = request(dirWrite, 0xa0, 64)
	getDebugRegs  = request(dirRead, 0xa1, 128)
	setDebugRegs  = request(dirWrite, 0xa2, 128)
	setTSCKHz     = request(dirNone, 0xa2, 0)
	getTSCKHz     = request(dirNone, 0xa3, 0)
	getXSave      = request(dirRead, 0xa4, 4096)
	setXSave      = request(dirWrite, 0xa5, 4096)
	getXCRs       = request(dirRead, 0xa6, 392)
	setXCRs       = request(dirWrite, 0xa7, 392)
	kvmclockCtrl  = request(dirNone, 0xad, 0)
	setDeviceAttr = request(dirWrite, 0xe1, 24)
	getDeviceAttr = request(dirWrite, 0xe2, 24)
)
