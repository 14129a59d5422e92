# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_bdsync_global_optspecs
    string join \n s/server p/patch= b/blocksize= h/hash= c/checksum= r/remdata t/twopass z/zeroblocks F/flushcache on-read-error= d/diffsize= seal compress= w/warndev spool= undo= dry-run verify sparse force allow= timeout= v/verbose P/progress= report= H/help version
end

function __fish_bdsync_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_bdsync_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_bdsync_using_subcommand
    set -l cmd (__fish_bdsync_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c bdsync -n "__fish_bdsync_needs_command" -s p -l patch -d 'Apply the patch on stdin to DEVICE (default: the device that the patch names)' -r -F
complete -c bdsync -n "__fish_bdsync_needs_command" -s b -l blocksize -d 'Bytes that one hash covers, 1 to 16777216 [default: 4096]' -r -f
complete -c bdsync -n "__fish_bdsync_needs_command" -s h -l hash -l digest -d 'Digest of the block hashes, see bdsync(1) [default: md5, or a faster one if both ends know it]' -r -f -a "md5\t''
sha1\t''
sha224\t''
sha256\t''
sha384\t''
sha512\t''
sha512-224\t''
sha512-256\t''
sha3-224\t''
sha3-256\t''
sha3-384\t''
sha3-512\t''
blake2b512\t''
blake2s256\t''
ripemd160\t''
sm3\t''
blake3\t''"
complete -c bdsync -n "__fish_bdsync_needs_command" -s c -l checksum -d 'Put this digest of the whole source device at the patch\'s end' -r -f -a "md5\t''
sha1\t''
sha224\t''
sha256\t''
sha384\t''
sha512\t''
sha512-224\t''
sha512-256\t''
sha3-224\t''
sha3-256\t''
sha3-384\t''
sha3-512\t''
blake2b512\t''
blake2s256\t''
ripemd160\t''
sm3\t''
blake3\t''"
complete -c bdsync -n "__fish_bdsync_needs_command" -l on-read-error -d 'What to do about bytes that cannot be read: fail, or skip: leave their blocks out, list them and end with exit status 15. A classic server fails anyway [default: fail]' -r -f -a "fail\t''
skip\t''"
complete -c bdsync -n "__fish_bdsync_needs_command" -s d -l diffsize -d 'When the sizes differ: strict (fail), resize (give the target the source\'s size; the default of a bare -d), minsize (the common part only); ,warn tells both sizes [default: strict]' -r -f -a "strict\t''
resize\t''
minsize\t''"
complete -c bdsync -n "__fish_bdsync_needs_command" -l compress -d 'Compress the patch: zstd, zstd:1 to zstd:19, gzip, gzip:1 to gzip:9. --patch, info, squash and mount read it; a classic bdsync needs it decompressed [default: not compressed]' -r -f -a "zstd\t''
gzip\t''"
complete -c bdsync -n "__fish_bdsync_needs_command" -l spool -d 'Copy a patch from a pipe to an unnamed file in DIR (default: the folder for temporary files) and check all of it before the first write' -r -f -a "(__fish_complete_directories)"
complete -c bdsync -n "__fish_bdsync_needs_command" -l undo -d 'Before the first write make FILE, which must not exist: a patch that takes this one back; --patch=DEVICE <FILE applies it. Implies --spool' -r -F
complete -c bdsync -n "__fish_bdsync_needs_command" -l allow -d 'Let clients name only devices that match GLOB, an absolute path in which *, ? and [...] stop at a slash and ** does not, and {a,b} is either; links and .. are resolved first, but a block device below /dev also goes by the name of a link that only root could make. May be repeated [default: all that the user may read]' -r -F
complete -c bdsync -n "__fish_bdsync_needs_command" -l timeout -d 'Give up when the other side says nothing for so long, except a classic one that makes a checksum or writes [default: 0, which is never]' -r -f
complete -c bdsync -n "__fish_bdsync_needs_command" -s P -l progress -d 'Tell the progress on stderr: in lines, or as STYLE: noscroll (one line), json (an object a second), none [default: a bar on a terminal]. SIGUSR1 always tells one line' -r -f -a "noscroll\t''
json\t''
none\t''"
complete -c bdsync -n "__fish_bdsync_needs_command" -l report -d 'Write a JSON record of the result to FILE, also of a failure' -r -F
complete -c bdsync -n "__fish_bdsync_needs_command" -s s -l server -d 'Answer a client on stdin and stdout'
complete -c bdsync -n "__fish_bdsync_needs_command" -s r -l remdata -d 'Make a patch that turns LOCDEV into REMDEV, not the other way'
complete -c bdsync -n "__fish_bdsync_needs_command" -s t -l twopass -d 'Accepted for the classic\'s sake; changes nothing'
complete -c bdsync -n "__fish_bdsync_needs_command" -s z -l zeroblocks -d 'Accepted for the classic\'s sake; changes nothing'
complete -c bdsync -n "__fish_bdsync_needs_command" -s F -l flushcache -d 'Drop from the page cache what was read or written'
complete -c bdsync -n "__fish_bdsync_needs_command" -l seal -d 'Record in the patch what the changed blocks hold now: applying is refused when they hold something else, or the patch is damaged (from a pipe: with --spool)'
complete -c bdsync -n "__fish_bdsync_needs_command" -s w -l warndev -d 'Warn when the patch names another device than DEVICE'
complete -c bdsync -n "__fish_bdsync_needs_command" -l dry-run -d 'Check the patch and the target as before the first write, say what would be written, and change nothing. Implies --spool'
complete -c bdsync -n "__fish_bdsync_needs_command" -l verify -d 'Read back what was written, past the cache, and compare. Implies --spool'
complete -c bdsync -n "__fish_bdsync_needs_command" -l sparse -d 'Make holes, or zeros by the device itself, of runs of zeros'
complete -c bdsync -n "__fish_bdsync_needs_command" -l force -d 'Patch a device that is in use, or not in the state that the patch is sealed for, as after a power failure during an earlier apply'
complete -c bdsync -n "__fish_bdsync_needs_command" -s v -l verbose -d 'Tell more; may be repeated. A server tells it to syslog'
complete -c bdsync -n "__fish_bdsync_needs_command" -s H -l help -d 'Print this help'
complete -c bdsync -n "__fish_bdsync_needs_command" -l version -d 'Print the version'
complete -c bdsync -n "__fish_bdsync_needs_command" -a "sync" -d 'Make DST equal to SRC, in one go'
complete -c bdsync -n "__fish_bdsync_needs_command" -a "mount" -d 'Show a pending patch as a file system: the target as it will be, before it is'
complete -c bdsync -n "__fish_bdsync_needs_command" -a "info" -d 'Tell what a patch changes, and draw where'
complete -c bdsync -n "__fish_bdsync_needs_command" -a "squash" -d 'Make one patch of several that follow each other'
complete -c bdsync -n "__fish_bdsync_needs_command" -a "help" -d 'Show the help of the program, or of one command'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l undo -d 'Before the first write make FILE, which must not exist, on DST\'s host: a patch that takes everything back. The changes are kept in FILE\'s folder until then' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s e -l rsh -d 'Remote shell, split at spaces like REMSHCMD [default: ssh]' -r -f -a "(__fish_complete_command)"
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l remote-path -d 'bdsync on the other host, in the words of its shell [default: bdsync]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l bwlimit -d 'Carry at most RATE bytes a second each way between the hosts, hashes and patch together, at least 1K; K, M and G stand for 2^10, 2^20, 2^30 [default: no limit]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s b -l blocksize -d 'Bytes that one hash covers, 1 to 16777216 [default: 4096]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s h -l hash -l digest -d 'Digest of the block hashes, see bdsync(1) [default: md5, or a faster one if both ends know it]' -r -f -a "md5\t''
sha1\t''
sha224\t''
sha256\t''
sha384\t''
sha512\t''
sha512-224\t''
sha512-256\t''
sha3-224\t''
sha3-256\t''
sha3-384\t''
sha3-512\t''
blake2b512\t''
blake2s256\t''
ripemd160\t''
sm3\t''
blake3\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s c -l checksum -d 'Put this digest of the whole source device at the patch\'s end' -r -f -a "md5\t''
sha1\t''
sha224\t''
sha256\t''
sha384\t''
sha512\t''
sha512-224\t''
sha512-256\t''
sha3-224\t''
sha3-256\t''
sha3-384\t''
sha3-512\t''
blake2b512\t''
blake2s256\t''
ripemd160\t''
sm3\t''
blake3\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l on-read-error -d 'What to do about bytes that cannot be read: fail, or skip: leave their blocks out, list them and end with exit status 15. A classic server fails anyway [default: fail]' -r -f -a "fail\t''
skip\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s d -l diffsize -d 'When the sizes differ: strict (fail), resize (give the target the source\'s size; the default of a bare -d), minsize (the common part only); ,warn tells both sizes [default: strict]' -r -f -a "strict\t''
resize\t''
minsize\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l timeout -d 'Give up when the other side says nothing for so long, except a classic one that makes a checksum or writes [default: 0, which is never]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s P -l progress -d 'Tell the progress on stderr: in lines, or as STYLE: noscroll (one line), json (an object a second), none [default: a bar on a terminal]. SIGUSR1 always tells one line' -r -f -a "noscroll\t''
json\t''
none\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l report -d 'Write a JSON record of the result to FILE, also of a failure' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l create -d 'Create the file DST, in SRC\'s size, if it does not exist or is empty; --diffsize does not count then'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l dry-run -d 'Say what would change, and change nothing; none of it is fetched'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l no-verify -d 'Do not compare again what was written'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l verify -d 'Compare again what was written (the default)'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l sparse -d 'Make holes, or zeros by the device, of runs of zeros'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l force -d 'Change a device or an image even when it is in use'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l compress -d 'Compress what is fetched or sent, with zstd; a classic bdsync at the other end cannot'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s t -l twopass -d 'Accepted for the classic\'s sake; changes nothing'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s z -l zeroblocks -d 'Accepted for the classic\'s sake; changes nothing'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s F -l flushcache -d 'Drop from the page cache what was read or written'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s v -l verbose -d 'Tell more; may be repeated. A server tells it to syslog'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -s H -l help -d 'Print this help'
complete -c bdsync -n "__fish_bdsync_using_subcommand sync" -l version -d 'Print the version'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l from -d 'Show a stored patch over BASEDEV, the device that it is meant for' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l fsname -d 'What the table of mounts names as its source [default: bdsync]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l scan -d 'What to compare: lazy, only what is read, or background, all of it [default: lazy]' -r -f -a "lazy\t''
background\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l cache-mib -d 'Keep up to N MiB of fetched blocks in memory, 1 to 65536 [default: 64]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s b -l blocksize -d 'Bytes that one hash covers, 1 to 16777216 [default: 4096]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s h -l hash -l digest -d 'Digest of the block hashes, see bdsync(1) [default: md5, or a faster one if both ends know it]' -r -f -a "md5\t''
sha1\t''
sha224\t''
sha256\t''
sha384\t''
sha512\t''
sha512-224\t''
sha512-256\t''
sha3-224\t''
sha3-256\t''
sha3-384\t''
sha3-512\t''
blake2b512\t''
blake2s256\t''
ripemd160\t''
sm3\t''
blake3\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s c -l checksum -d 'Put this digest of the whole source device at the patch\'s end' -r -f -a "md5\t''
sha1\t''
sha224\t''
sha256\t''
sha384\t''
sha512\t''
sha512-224\t''
sha512-256\t''
sha3-224\t''
sha3-256\t''
sha3-384\t''
sha3-512\t''
blake2b512\t''
blake2s256\t''
ripemd160\t''
sm3\t''
blake3\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s d -l diffsize -d 'When the sizes differ: strict (fail), resize (give the target the source\'s size; the default of a bare -d), minsize (the common part only); ,warn tells both sizes [default: strict]' -r -f -a "strict\t''
resize\t''
minsize\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l timeout -d 'Give up when the other side says nothing for so long, except a classic one that makes a checksum or writes [default: 0, which is never]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s P -l progress -d 'Tell the progress on stderr: in lines, or as STYLE: noscroll (one line), json (an object a second), none [default: a bar on a terminal]. SIGUSR1 always tells one line' -r -f -a "noscroll\t''
json\t''
none\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l report -d 'Write a JSON record of the result to FILE, also of a failure' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l daemon -d 'Return as soon as the mount can be read, and serve it unseen'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l allow-other -d 'Let all users read the mount, not just its owner'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l allow-root -d 'Let root read the mount as well'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l compress -d 'Compress what is fetched or sent, with zstd; a classic bdsync at the other end cannot'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l end-with-link -d 'End the mount, as SIGTERM does, once the link to the remote side is lost'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s r -l remdata -d 'Make a patch that turns LOCDEV into REMDEV, not the other way'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s t -l twopass -d 'Accepted for the classic\'s sake; changes nothing'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s z -l zeroblocks -d 'Accepted for the classic\'s sake; changes nothing'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s F -l flushcache -d 'Drop from the page cache what was read or written'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s v -l verbose -d 'Tell more; may be repeated. A server tells it to syslog'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -s H -l help -d 'Print this help'
complete -c bdsync -n "__fish_bdsync_using_subcommand mount" -l version -d 'Print the version'
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -l base -d 'Mark the partitions (GPT, MBR) of the disk that the patch is for' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -l svg -d 'Draw it into FILE as well, for a report' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -s P -l progress -d 'Tell the progress on stderr: in lines, or as STYLE: noscroll (one line), json (an object a second), none [default: a bar on a terminal]. SIGUSR1 always tells one line' -r -f -a "noscroll\t''
json\t''
none\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -l report -d 'Write a JSON record of the result to FILE, also of a failure' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -l json -d 'Tell it as one JSON object'
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -s v -l verbose -d 'Tell more; may be repeated. A server tells it to syslog'
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -s H -l help -d 'Print this help'
complete -c bdsync -n "__fish_bdsync_using_subcommand info" -l version -d 'Print the version'
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -l basesize -d 'Size of the device that the first patch is for: saves writing zeros out where patches change its size [default: unknown]' -r -f
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -l compress -d 'Compress the patch: zstd, zstd:1 to zstd:19, gzip, gzip:1 to gzip:9. --patch, info, squash and mount read it; a classic bdsync needs it decompressed [default: not compressed]' -r -f -a "zstd\t''
gzip\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -s P -l progress -d 'Tell the progress on stderr: in lines, or as STYLE: noscroll (one line), json (an object a second), none [default: a bar on a terminal]. SIGUSR1 always tells one line' -r -f -a "noscroll\t''
json\t''
none\t''"
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -l report -d 'Write a JSON record of the result to FILE, also of a failure' -r -F
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -l force -d 'Squash patches that name different devices; the last counts'
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -s v -l verbose -d 'Tell more; may be repeated. A server tells it to syslog'
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -s H -l help -d 'Print this help'
complete -c bdsync -n "__fish_bdsync_using_subcommand squash" -l version -d 'Print the version'
complete -c bdsync -n "__fish_bdsync_using_subcommand help" -f -a "sync mount info squash help"
