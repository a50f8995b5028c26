[000h 0000   4]                    Signature : "APIC"    [Multiple APIC Description Table (MADT)]
[004h 0004   4]                 Table Length : 00000086
[008h 0008   1]                     Revision : 06
[009h 0009   1]                     Checksum : 12
[00Ah 0010   6]                       Oem ID : "BLKHD "
[010h 0016   8]                 Oem Table ID : "BULKHEAD"
[018h 0024   4]                 Oem Revision : 00000001
[01Ch 0028   4]              Asl Compiler ID : "BLKH"
[020h 0032   4]        Asl Compiler Revision : 00000001

[024h 0036   4]           Local Apic Address : FEE00000
[028h 0040   4]        Flags (decoded below) : 00000000
                         PC-AT Compatibility : 0

[02Ch 0044   1]                Subtable Type : 00 [Processor Local APIC]
[02Dh 0045   1]                       Length : 08
[02Eh 0046   1]                 Processor ID : 00
[02Fh 0047   1]                Local Apic ID : 00
[030h 0048   4]        Flags (decoded below) : 00000001
                           Processor Enabled : 1
                      Runtime Online Capable : 0

[034h 0052   1]                Subtable Type : 00 [Processor Local APIC]
[035h 0053   1]                       Length : 08
[036h 0054   1]                 Processor ID : 01
[037h 0055   1]                Local Apic ID : 01
[038h 0056   4]        Flags (decoded below) : 00000001
                           Processor Enabled : 1
                      Runtime Online Capable : 0

[03Ch 0060   1]                Subtable Type : 00 [Processor Local APIC]
[03Dh 0061   1]                       Length : 08
[03Eh 0062   1]                 Processor ID : 02
[03Fh 0063   1]                Local Apic ID : 04
[040h 0064   4]        Flags (decoded below) : 00000001
                           Processor Enabled : 1
                      Runtime Online Capable : 0

[044h 0068   1]                Subtable Type : 00 [Processor Local APIC]
[045h 0069   1]                       Length : 08
[046h 0070   1]                 Processor ID : 03
[047h 0071   1]                Local Apic ID : 05
[048h 0072   4]        Flags (decoded below) : 00000001
                           Processor Enabled : 1
                      Runtime Online Capable : 0

[04Ch 0076   1]                Subtable Type : 00 [Processor Local APIC]
[04Dh 0077   1]                       Length : 08
[04Eh 0078   1]                 Processor ID : 04
[04Fh 0079   1]                Local Apic ID : FE
[050h 0080   4]        Flags (decoded below) : 00000001
                           Processor Enabled : 1
                      Runtime Online Capable : 0

[054h 0084   1]                Subtable Type : 09 [Processor Local x2APIC]
[055h 0085   1]                       Length : 10
[056h 0086   2]                     Reserved : 0000
[058h 0088   4]          Processor x2Apic ID : 000000FF
[05Ch 0092   4]        Flags (decoded below) : 00000001
                           Processor Enabled : 1
[060h 0096   4]                Processor UID : 00000005

[064h 0100   1]                Subtable Type : 09 [Processor Local x2APIC]
[065h 0101   1]                       Length : 10
[066h 0102   2]                     Reserved : 0000
[068h 0104   4]          Processor x2Apic ID : 0000012C
[06Ch 0108   4]        Flags (decoded below) : 00000001
                           Processor Enabled : 1
[070h 0112   4]                Processor UID : 00000006

[074h 0116   1]                Subtable Type : 01 [I/O APIC]
[075h 0117   1]                       Length : 0C
[076h 0118   1]                  I/O Apic ID : 00
[077h 0119   1]                     Reserved : 00
[078h 0120   4]                      Address : FEC00000
[07Ch 0124   4]                    Interrupt : 00000000

[080h 0128   1]                Subtable Type : 04 [Local APIC NMI]
[081h 0129   1]                       Length : 06
[082h 0130   1]                 Processor ID : FF
[083h 0131   2]        Flags (decoded below) : 0000
                                    Polarity : 0
                                Trigger Mode : 0
[085h 0133   1]         Interrupt Input LINT : 01
