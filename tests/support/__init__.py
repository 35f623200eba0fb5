"""The fakes of the tests, and which of them to take for a new test.

===================  ====================================================  ==================================
Fake                 Stands for                                            Take it for
===================  ====================================================  ==================================
`Stage`              driver, button, microphone, loudspeaker and server    the pure conversation: frames in,
                     of one `Conversation`, in virtual time                commands out
`AgentStage`         a stage whose agents have tools, handoffs and         tools, approvals, handoffs,
                     guardrails; `WatchedStage` also checks deadlines      guardrails
`ToolStage`          a stage whose agent has one tool of each kind         calls that outlive something
`LinkStage`          a stage with several endpoints, links and a spare     failover, rotation, budget
`ProgramStage`       a stage that a program uses instead of a button       turns, messages and questions of a
                                                                           program; server turn detection
`Served`             the client of one `ServerModel`                       the offline brain's protocol, pure
`World`              `ServerModel`, network and user around one            a race, step by step, with all
                     `Conversation`, with the invariants                   invariants checked
`Environment`        random steps in a `World`                             property tests of the conversation
`ScriptedServer`     a Realtime server on loopback, frame by literal       a session or a transport over a
                     frame                                                 real socket
`Reader`             the program that reads a session's events             a session over a socket
`ToolInbox`          the conversation, for a runner of tools               tools and checks without a session
`LinkInbox`          the conversation, for a transport                     transports without a session
`Rig`                the user of a whole simulated appliance               whole appliance
`HandCard`           a card whose callbacks the test calls                 the audio streams, by the period
`CardStreams`        (`tests/alsa`) streams over PortAudio and a card      real PortAudio, virtual card
===================  ====================================================  ==================================

`Dialect` is how the server of a `World` differs from the reference; `oracle` checks each frame against the types of the
`openai` package; ``fake_gpiod``, ``fake_lgpio`` and ``fake_spidev`` stand for the libraries of the pins.
"""
