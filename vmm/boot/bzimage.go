package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Offsets in a bzImage's first sectors, and so in boot_params
// (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
const (
	hdrSetupSects  = 0x1f1 // byte
	hdrBootFlag    = 0x1fe // 2
	hdrJump        = 0x200 // a short jump over the rest of the header
	hdrMagic       = 0x202 // 4
	hdrVersion     = 0x206 // 2
	hdrLoader      = 0x210 // byte
	hdrImage       = 0x218 // 4: initrd
	hdrImageSize   = 0x21c // 4
	hdrCmdline     = 0x228 // 4
	hdrInitrdMax   = 0x22c // 4
	hdrAlignment   = 0x230 // 4
	hdrXLoadFlags  = 0x236 // 2
	hdrCmdlineSize = 0x238 // 4
	hdrPayload     = 0x248 // 4
	hdrPayloadLen  = 0x24c // 4
	hdrSetupData   = 0x250 // 8
	hdrEnd         = 0x290 // in boot_params, whatever a later header may have
)

const (
	bootFlag        = 0xaa55
	headerMagic     = "HdrS"
	payloadVersion  = 0x208  // first with hdrPayload; Linux 2.6.24
	flagsVersion    = 0x20c  // first with hdrXLoadFlags; Linux 3.8
	xlfKernel64     = 1 << 0 // XLF_KERNEL_64
	xlfAbove4G      = 1 << 1 // XLF_CAN_BE_LOADED_ABOVE_4G
	sector          = 512
	defaultSects    = 4       // what setup_sects 0 means
	unpackedLimit   = 1 << 30 // bytes; the largest kernels have 100 MiB
	unpackedSizeLen = 4       // the size at the payload's end
)

var le = binary.LittleEndian

// bzImage is a checked header and where the compressed vmlinux lies.
type bzImage struct {
	header     []byte // the file from hdrSetupSects, as boot_params wants it
	version    uint16
	above4G    bool // an initrd may lie above 4 GiB
	cmdlineMax uint32

	payload, length uint64 // in the file; without the size at its end
	unpacked        uint64 // that size
	format          format
}

func isBzImage(head []byte) bool {
	return len(head) >= hdrEnd && le.Uint16(head[hdrBootFlag:]) == bootFlag &&
		string(head[hdrMagic:hdrMagic+4]) == headerMagic
}

// parseBzImage checks head, the beginning of a file of size bytes.
func parseBzImage(head []byte, size uint64) (*bzImage, error) {
	b := &bzImage{version: le.Uint16(head[hdrVersion:])}
	if b.version < payloadVersion {
		return nil, fmt.Errorf("is a bzImage of boot protocol %d.%02d, before 2.08 (Linux 2.6.24), and cannot be unpacked",
			b.version>>8, b.version&0xff)
	}
	if b.version >= flagsVersion {
		flags := le.Uint16(head[hdrXLoadFlags:])
		if flags&xlfKernel64 == 0 {
			return nil, errors.New("is a 32-bit kernel; a 64-bit one (x86-64) is needed")
		}
		b.above4G = flags&xlfAbove4G != 0
	}
	b.cmdlineMax = le.Uint32(head[hdrCmdlineSize:])
	end := min(hdrMagic+int(head[hdrJump+1]), hdrEnd)
	b.header = bytes.Clone(head[hdrSetupSects:max(end, hdrSetupData)])

	sects := uint64(head[hdrSetupSects])
	if sects == 0 {
		sects = defaultSects
	}
	b.payload = (sects+1)*sector + uint64(le.Uint32(head[hdrPayload:]))
	b.length = uint64(le.Uint32(head[hdrPayloadLen:]))
	switch {
	case b.length <= unpackedSizeLen:
		return nil, errors.New("is a bzImage without a payload")
	case b.payload > size || b.length > size-b.payload:
		return nil, fmt.Errorf("is a bzImage cut short: its payload is %d bytes from %d on, the file has %d",
			b.length, b.payload, size)
	}
	return b, nil
}

// findFormat looks at both ends of the payload. arch/x86/boot/compressed/Makefile
// puts the size of vmlinux at its end; gzip's own format ends with it.
func (b *bzImage) findFormat(file io.ReaderAt) error {
	first := make([]byte, min(b.length, 8))
	var last [unpackedSizeLen]byte
	if _, err := file.ReadAt(first, int64(b.payload)); err != nil {
		return fmt.Errorf("read payload: %w", cause(err))
	}
	if _, err := file.ReadAt(last[:], int64(b.payload+b.length-unpackedSizeLen)); err != nil {
		return fmt.Errorf("read payload: %w", cause(err))
	}
	b.unpacked = uint64(le.Uint32(last[:]))
	for _, f := range formats {
		if !bytes.HasPrefix(first, []byte(f.magic)) {
			continue
		}
		if f.open == nil {
			return fmt.Errorf("is a bzImage compressed by %s, which is not supported; gzip, xz, zstd, lz4, bzip2 and lzma are", f.name)
		}
		if b.unpacked > unpackedLimit {
			return fmt.Errorf("is a bzImage that would unpack to %d MiB", b.unpacked>>20)
		}
		if b.format = f; !f.sized {
			b.length -= unpackedSizeLen
		}
		return nil
	}
	return fmt.Errorf("is a bzImage with a payload of unknown compression (it begins % x)", first)
}
